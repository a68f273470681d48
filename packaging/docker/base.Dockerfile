# What OpenVidu's recording image holds, from Debian's packages: for machines that reach no registry.
# build-base makes DEBIAN with debootstrap.
ARG DEBIAN=debian:bookworm-slim
FROM ${DEBIAN}
RUN apt-get update -qq \
 && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends \
      ca-certificates chromium ffmpeg fonts-dejavu-core fonts-noto-color-emoji libasound2-plugins pulseaudio xvfb \
 && adduser root pulse-access \
 && apt-get clean && rm -rf /var/lib/apt/lists/*
