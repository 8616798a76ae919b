"""Pictures within the page: photographs as JPEG, drawn at a size that keeps the page small."""

import base64
from dataclasses import dataclass
from typing import Final

import cv2

from hpa.pictures import Picture

_QUALITY: Final = 84


@dataclass(frozen=True)
class Photo:
    """A picture of the page.

    Parameters
    ----------
    source
        The picture itself, a ``data:`` address.
    width, height
        In px.
    alt
        What it shows, for those who cannot see it.
    caption
        Text below it when it is opened large.
    """

    source: str
    width: int
    height: int
    alt: str
    caption: str = ""


def photo(picture: Picture, alt: str, caption: str = "") -> Photo:
    """Encode a picture of shape (H, W, 3), blue-green-red."""
    done, content = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    assert done
    source = f"data:image/jpeg;base64,{base64.b64encode(content.tobytes()).decode()}"
    return Photo(source, picture.shape[1], picture.shape[0], alt, caption or alt)
