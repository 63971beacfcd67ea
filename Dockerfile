# tesserad and its client on nothing but the libraries that they load.
#   docker build -t tessera:0.1.0 .
# scripts/image does it without Docker, and tries the image.
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
RUN cmake --preset release -DBUILD_TESTING=OFF -DTESSERA_BUILD_BENCHES=OFF \
 && cmake --build --preset release --parallel "$JOBS" --target tesserad tessera
COPY LICENSE deploy/image/closure ./
RUN ./closure /rootfs build/release/bin/tesserad build/release/bin/tessera

FROM scratch AS runtime
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Tessera" \
      org.opencontainers.image.description="Serves language models over gRPC" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
COPY --from=build /rootfs /
USER 65532:65532
ENV TESSERA_MODEL=/models/model.gguf \
    TESSERA_LISTEN=0.0.0.0:50051 \
    TESSERA_METRICS_LISTEN=0.0.0.0:9090
EXPOSE 50051 9090
VOLUME /models
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/bin/tesserad"]
