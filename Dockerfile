# Both environments on Debian (CPU) or on a CUDA base (GPU); docs/container.md says how to build and run it.
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE}

# A compiler is for DeepSpeed and torch.compile; the CUDA bases have no Python.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends build-essential ca-certificates git python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*

# vllm, ldm or all.
ARG ENVIRONMENTS=all
WORKDIR /lego
COPY . .
RUN bash scripts/setup.sh "${ENVIRONMENTS}" && rm -rf /root/.cache

ENV DATA_ROOT=/lego/data RUN_ROOT=/lego/runs WEIGHTS_ROOT=/lego/weights
EXPOSE 7860
CMD ["bash"]
