# tesserad and its client on nothing but the libraries that they load.
#   docker build -t tessera:0.1.0 .
#   docker build -t tessera:0.1.0-cuda --target runtime-cuda .
# scripts/image does it without Docker, and tries the image.

# Where runtime-cuda gets CUDA's compiler and headers from: any NVIDIA image with both.
ARG CUDA_BASE=nvidia/cuda:13.0.1-devel-ubuntu24.04

FROM debian:bookworm-slim AS build
COPY deploy/image/packages.lock /tmp/
RUN apt-get update \
 && xargs --arg-file=/tmp/packages.lock apt-get install --yes --no-install-recommends \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY CMakeLists.txt CMakePresets.json ./
COPY cmake cmake
COPY base base
COPY kernels kernels
COPY model model
COPY scheduler scheduler
COPY proto proto
COPY server server
COPY client client
ARG JOBS=2
RUN cmake --preset release -DTESSERA_CUDA=OFF -DBUILD_TESTING=OFF -DTESSERA_BUILD_BENCHES=OFF \
 && cmake --build --preset release --parallel "$JOBS" --target tesserad tessera

# All tests that need no model and no program from elsewhere.
FROM build AS test
COPY tests tests
ARG JOBS=2
RUN cmake --preset release -DBUILD_TESTING=ON -DTESSERA_BUILD_BENCHES=OFF \
 && cmake --build --preset release --parallel "$JOBS" \
 && ctest --preset release --label-exclude 'system|deploy'
COPY LICENSE deploy/image/closure ./
ARG SOURCE_DATE_EPOCH=0
RUN ./closure /rootfs build/release/bin/tesserad build/release/bin/tessera

FROM ${CUDA_BASE} AS cuda

# The same recipe, with kernels for GPUs. The toolkit is lent, not copied: what the programs need of
# it is linked in, and libcuda comes with the driver.
FROM test AS build-cuda
ARG CUDA_ARCHITECTURES=80-real;90-real
ARG JOBS=2
RUN --mount=type=bind,from=cuda,source=/usr/local,target=/usr/local \
    CUDACXX=$(echo /usr/local/cuda-*.*/bin/nvcc) \
    cmake --preset release -B build/cuda -DTESSERA_CUDA=ON -DBUILD_TESTING=OFF \
      -DTESSERA_BUILD_BENCHES=OFF -DCMAKE_CUDA_ARCHITECTURES="$CUDA_ARCHITECTURES" \
 && cmake --build build/cuda --parallel "$JOBS" --target tesserad tessera
ARG SOURCE_DATE_EPOCH=0
RUN rm -r /rootfs && ./closure /rootfs build/cuda/bin/tesserad build/cuda/bin/tessera

# What the two images have in common.
FROM scratch AS image
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
LABEL org.opencontainers.image.title="Tessera" \
      org.opencontainers.image.description="Serves language models over gRPC" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.created="$CREATED"
USER 65532:65532
ENV TESSERA_MODEL=/models/model.gguf \
    TESSERA_LISTEN=0.0.0.0:50051 \
    TESSERA_METRICS_LISTEN=0.0.0.0:9090
EXPOSE 50051 9090
VOLUME /models
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/bin/tesserad"]

FROM image AS runtime-cuda
COPY --from=build-cuda /rootfs /
# For NVIDIA's container runtime: which devices, and which of the driver's libraries.
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

FROM image AS runtime
COPY --from=test /rootfs /
