# Cellwise with the versions of the lock file, and the demo as its command:
#
#   docker build --tag cellwise .                                       for processors
#   docker build --tag cellwise:gpu --build-arg TORCH=cu128 .           for NVIDIA GPUs, with CUDA 12.8
#   docker run --rm -v "$PWD/work:/work" cellwise                       the demo, in ./work/demo
#   docker run --rm --gpus all --ipc host -v /data:/data -v "$PWD/work:/work" cellwise:gpu run /work/my
FROM python:3.11-slim

# `cpu`, or a version of CUDA as torch's packages name it; `--gpus all` needs the NVIDIA container toolkit on the host.
ARG TORCH=cpu

RUN pip install --no-cache-dir uv
WORKDIR /cellwise
COPY pyproject.toml uv.lock README.md LICENSE ./

# The libraries first: they change less often than the code. The lock file names the CUDA packages of torch as well; a
# constraint installs nothing, so the variant for processors stays without them.
RUN uv export --quiet --frozen --no-default-groups --no-emit-project --no-hashes --extra dask --extra timm \
        --output-file constraints.txt \
    && uv venv --quiet /opt/cellwise \
    && uv pip install --no-cache --python /opt/cellwise --torch-backend "$TORCH" --constraints constraints.txt \
        --requirements pyproject.toml --extra dask --extra timm

COPY hpa hpa
COPY segment segment
COPY crops crops
COPY classify classify
COPY aggregate aggregate
COPY pipeline pipeline
COPY cellwise cellwise
COPY recipes recipes
RUN uv pip install --no-cache --python /opt/cellwise --no-deps .

ENV PATH=/opt/cellwise/bin:$PATH
WORKDIR /work
ENTRYPOINT ["cellwise"]
CMD ["demo", "/work/demo"]
