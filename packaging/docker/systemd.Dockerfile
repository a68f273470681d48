# A Debian whose first process is systemd: the package's tests install, upgrade, remove and purge in it.
# build-systemd makes DEBIAN with debootstrap where no registry can be reached.
ARG DEBIAN=debian:bookworm-slim
FROM ${DEBIAN}
RUN apt-get update -qq \
 && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends adduser curl systemd systemd-sysv dbus \
 && apt-get clean && rm -rf /var/lib/apt/lists/* \
 && systemctl mask systemd-udevd.service systemd-logind.service getty.target console-getty.service
STOPSIGNAL SIGRTMIN+3
CMD ["/sbin/init"]
