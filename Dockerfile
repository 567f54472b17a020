# peft-vision with the versions that its tests ran with, on a CPU.
#   docker build -t peft-vision .
#   docker run --rm -v "$PWD:/work" peft-vision experiment=demo
# The wheels of torch for Linux bring CUDA along; --build-arg INDEX=URL of an index with CPU wheels makes the image smaller.
FROM python:3.11-slim

ARG INDEX=""
WORKDIR /source
COPY pyproject.toml constraints.txt LICENSE ./
COPY docs/install.md docs/install.md
COPY src src
COPY conf conf
RUN pip install --no-cache-dir ${INDEX:+--extra-index-url "$INDEX"} -c constraints.txt . && rm -rf /source/*

RUN useradd --create-home --uid 1000 person && install -d -o person /work
USER person
WORKDIR /work
ENV WANDB_MODE=offline
ENTRYPOINT ["peft-vision"]
CMD ["--help"]
