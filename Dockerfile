# The image of tidegauge. BASE is any Debian-like image with Python 3.11 or newer and its venv module.
#
# Build stage: a wheel of this source (.dockerignore says which files come along), and what it needs: from `wheels/` in the
# context if that is there, else from the index. With PIP_NO_INDEX=1 nothing is fetched: then `wheels/` has to hold all of it,
# hatchling included.
ARG BASE=python:3.13-slim
FROM ${BASE} AS build
ARG PIP_NO_INDEX=
WORKDIR /src
COPY . .
RUN python3 -m venv /opt/tidegauge \
    && /opt/tidegauge/bin/python -m pip wheel --no-cache-dir --no-deps --find-links wheels --wheel-dir /dist . \
    && /opt/tidegauge/bin/python -m pip install --no-cache-dir --find-links wheels "$(ls /dist/*.whl)[auth,postgresql]" \
    && /opt/tidegauge/bin/python -m pip uninstall -qy pip

FROM ${BASE}
# It needs no right of root: what it reads of the kernel anybody may read (docs/security.md)
RUN useradd --system --user-group --home-dir /var/lib/tidegauge --shell /usr/sbin/nologin tidegauge \
    && install -d -m 710 -o tidegauge -g tidegauge /var/lib/tidegauge
COPY --from=build /opt/tidegauge /opt/tidegauge
# Within the container's own network namespace every address is the container's; what is published decides who reaches it
ENV PATH=/opt/tidegauge/bin:$PATH PYTHONUNBUFFERED=1 \
    TIDEGAUGE_STATE_DIR=/var/lib/tidegauge TIDEGAUGE_ROOTS__ROOTFS=/rootfs \
    TIDEGAUGE_HTTP__LISTEN=0.0.0.0:4194 TIDEGAUGE_HTTP__ALLOW_REMOTE=true
USER tidegauge
EXPOSE 4194
STOPSIGNAL SIGTERM
# Over the Unix socket, so that it holds whatever address is listened on
HEALTHCHECK --interval=30s --timeout=10s --start-period=30s CMD ["tidegauge", "status"]
ENTRYPOINT ["tidegauge"]
CMD ["run"]
