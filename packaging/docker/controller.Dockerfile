# The controller alone: one static file in an empty image; build-controller lays out what is copied.
#
# It runs as a user of its own; the group that owns Docker's socket is added when it is started (docker run --group-add), for
# its number differs between hosts. Where recordings belong to root, as OpenVidu's do, compose.yml shows how it runs as root
# with one capability.
FROM scratch
LABEL created.by="ov2-ha-recorder"
COPY ov2-ha-recorder /ov2-ha-recorder
COPY --chown=65532:65532 state /var/lib/ov2-ha-recorder
USER 65532:65532
EXPOSE 15443
VOLUME ["/var/lib/ov2-ha-recorder"]
HEALTHCHECK --interval=15s --timeout=5s --start-period=10s --retries=3 CMD ["/ov2-ha-recorder", "health"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["/ov2-ha-recorder"]
CMD ["serve"]
