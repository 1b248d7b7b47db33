# One image for every part of the fabric: the command says which, as in `docker run camfabric publish ...`.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS builder
WORKDIR /build
RUN python -m venv --without-pip /opt/camfabric
COPY pyproject.toml constraints.txt ./
# Slim images have no libGL and no libxcb, so opencv-python-headless takes the place of opencv-python.
# The dependencies are installed before the code is copied: a change of the code does not fetch them again.
RUN python -c 'import tomllib; \
project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
extras = project["optional-dependencies"]; \
wanted = project["dependencies"] + extras["video"] + extras["web"]; \
print("\n".join(line.replace("opencv-python", "opencv-python-headless") for line in wanted))' >requirements.txt \
    && python -m pip --python /opt/camfabric/bin/python install --no-cache-dir --only-binary :all: \
        -c constraints.txt -r requirements.txt
COPY . .
RUN python -m pip wheel --no-cache-dir --no-deps -w /wheel . \
    && python -m pip --python /opt/camfabric/bin/python install --no-cache-dir --no-deps /wheel/*.whl
# What nothing at run time reads: tests, type stubs, face detection models.
RUN cd /opt/camfabric/lib/python3*/site-packages \
    && find numpy -type d -name tests -prune -exec rm -rf {} + \
    && find . -type f \( -name '*.pyi' -o -name '*.pxd' -o -name '*.a' \) -delete \
    && rm -rf cv2/data/*.xml

FROM ${BASE}
# Folders below /keys, for a volume each: a new volume has the owner of the folder that it is mounted on.
ARG KEY_FOLDERS=""
# A fixed number, so that it can be named in `chown` and in access rules; no password, no shell.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin camfabric \
    && install -d -o camfabric -g camfabric /pictures \
    && install -d -o camfabric -g camfabric -m 0700 /keys \
    && for name in broker ${KEY_FOLDERS}; do install -d -o camfabric -g camfabric -m 0700 "/keys/${name}"; done
COPY --from=builder /opt/camfabric /opt/camfabric
ENV PATH=/opt/camfabric/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    MALLOC_ARENA_MAX=2
# Proves that all of it loads, and keeps the compiled form of what it uses of the standard library: the user below
# may not write it, and each health check would compile it anew.
RUN python -c 'import cv2, av, camfabric.broker, camfabric.cli.main, camfabric.gateway, camfabric.publisher.capture, \
camfabric.subscriber' \
    && camfabric --help >/dev/null
USER 10001:10001
WORKDIR /pictures
# Right for a broker without keys. Other parts set CAMFABRIC_FROM, CAMFABRIC_KEYS, CAMFABRIC_FILTER and
# CAMFABRIC_LS_REQUIRE_LIVE.
HEALTHCHECK --interval=20s --timeout=10s --start-period=20s --retries=3 CMD ["camfabric", "ls"]
ENTRYPOINT ["camfabric"]
CMD ["broker"]
