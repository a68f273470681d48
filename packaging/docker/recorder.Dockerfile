# The recording image: OpenVidu's own, or the local base, with our binary as its first process.
# The base's /entrypoint.sh stays as it is: `record` hands over to it in the modes that are not ours. What OpenVidu runs in
# quick-start mode to begin and end a recording asks our process to.
ARG BASE=openvidu/openvidu-recording:2.32.2
FROM ${BASE}
LABEL created.by="ov2-ha-recorder"
# Chrome's user. No distribution gives its number away: the group is kept from what a recorder writes, and on the host nobody
# else must have it. Without --no-log-init a file of many megabytes would say that it never logged in. On a base that refuses
# it Chrome is root, and the recorder's log says so.
RUN groupadd --gid 47047 ov2-chrome \
 && useradd --uid 47047 --gid 47047 --no-log-init --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin ov2-chrome \
 || echo "this base takes no user for Chrome"
# Fonts and policies that only root may read would be missing from that user's pages, and a cache of fonts that is out of date
# would be made anew by each Chrome.
RUN for it in /usr/share/fonts /usr/local/share/fonts /etc/fonts /etc/opt/chrome /etc/chromium; do \
      [ ! -e $it ] || find $it ! -type l \( ! -perm -a+r -o -type d ! -perm -a+x \) -exec chmod a+rX {} +; \
    done; \
    fc-cache -s || true
COPY ov2-ha-recorder /usr/local/bin/ov2-ha-recorder
RUN printf '%s\n' '#!/bin/sh' 'case "$1" in' \
      '  --start-recording) exec ov2-ha-recorder ask start ;;' \
      '  --stop-recording) exec ov2-ha-recorder ask stop ;;' \
      '  *) echo "usage: $0 --start-recording | --stop-recording" >&2; exit 64 ;;' \
      'esac' > /composed_quick_start.sh \
 && chmod 755 /composed_quick_start.sh
WORKDIR /
ENTRYPOINT ["/usr/local/bin/ov2-ha-recorder", "record"]
