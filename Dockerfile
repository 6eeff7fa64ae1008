# Two images from one file. Both run as a user without rights and write nowhere but to /data and /tmp.
#
#   docker build --target api    --tag headroom-api .       API, sweeper and migration; holds no torch
#   docker build --target worker --tag headroom-worker .    runs jobs, with torch and transformers
#
# The worker gets the build of torch that the package index has for the platform: on Linux that is one for CUDA, which
# runs on a CPU too and is large. For a CPU only, add `--build-arg TORCH_INDEX=` and the address of PyTorch's index of
# CPU builds.

ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
RUN python -m venv /opt/headroom
ENV PATH=/opt/headroom/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /source
COPY constraints.txt ./

FROM build AS build-api
COPY . .
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --constraint constraints.txt '.[api,postgres,s3,tracing]'

FROM build AS build-worker
ARG TORCH_INDEX=""
# A layer of its own, so that a change of our code does not fetch torch again.
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --constraint constraints.txt ${TORCH_INDEX:+--extra-index-url ${TORCH_INDEX}} torch==2.13.0
COPY . .
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --constraint constraints.txt '.[worker,postgres,s3,onnx,tracing]'

FROM ${PYTHON_IMAGE} AS runtime
# A fresh named volume takes over the owner of /data.
RUN groupadd --gid 10001 headroom \
    && useradd --uid 10001 --gid headroom --create-home headroom \
    && install --directory --owner headroom --group headroom /data
# PYTHONSAFEPATH: the current folder may hold packages with names like ours. The home may be read-only: what libraries
# cache goes to /tmp.
ENV PATH=/opt/headroom/bin:$PATH \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1 \
    XDG_CACHE_HOME=/tmp/cache \
    HF_HOME=/tmp/huggingface \
    HEADROOM_DATA_DIR=/data
USER 10001:10001
WORKDIR /home/headroom
VOLUME /data

FROM runtime AS api
COPY --from=build-api /opt/headroom /opt/headroom
EXPOSE 8000
# On this address it asks for keys. It speaks plain HTTP: publish the port to loopback, or to a proxy with TLS.
CMD ["python", "-m", "api.main", "--host", "0.0.0.0"]

FROM runtime AS worker
COPY --from=build-worker /opt/headroom /opt/headroom
CMD ["python", "-m", "workers.main"]
