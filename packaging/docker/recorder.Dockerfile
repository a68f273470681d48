# The recording image: OpenVidu's own, or the local base, with our binary as its first process.
# The base's /entrypoint.sh stays as it is: `record` hands over to it in the modes that are not ours.
ARG BASE=openvidu/openvidu-recording:2.32.2
FROM ${BASE}
LABEL created.by="ov2-ha-recorder"
COPY ov2-ha-recorder /usr/local/bin/ov2-ha-recorder
WORKDIR /
ENTRYPOINT ["/usr/local/bin/ov2-ha-recorder", "record"]
