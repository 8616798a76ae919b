"""Send work to the workers of a Dask cluster. The one module that imports Dask."""

from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import Final

from hpa.errors import UserError

_PATIENCE_S: Final = 20
_RETRIES: Final = 2  # a chunk whose worker is lost is given to another one


def check_cluster(address: str) -> None:
    """Check that a Dask scheduler answers; an empty address means no cluster.

    Raises
    ------
    UserError
        If Dask is not installed or no scheduler answers.
    """
    if address:
        with cluster_executor(address):
            pass


@contextmanager
def cluster_executor(address: str) -> Iterator[Executor]:
    """Yield an executor that runs on a Dask cluster.

    The workers must see the work folder and the images under the same paths, and have this package installed.

    Parameters
    ----------
    address
        Address of the scheduler, for example ``tcp://10.0.0.1:8786``.

    Raises
    ------
    UserError
        If Dask is not installed or no scheduler answers.
    """
    try:
        from distributed import Client
    except ImportError:
        raise UserError("expected Dask for --dask, found it missing; install cellwise[dask]") from None
    try:
        client = Client(address, timeout=_PATIENCE_S, set_as_default=False)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:  # TimeoutError is an OSError; an address that is none is a ValueError
        raise UserError(f"expected a Dask scheduler at {address}, found none ({error})") from None
    with client:
        yield client.get_executor(pure=False, retries=_RETRIES)  # type: ignore[no-untyped-call]
