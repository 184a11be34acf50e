# At the root, because the lock, the package and the migrations have only the root in common.
FROM python:3.11-slim-trixie@sha256:45037981b62b34b44602584fccbc4d884d5f7dc92c7ee86bb38a698a79fe1e51 AS build
WORKDIR /build
COPY requirements/ requirements/
RUN python -m pip install --no-cache-dir --require-hashes -r requirements/uv.lock \
 && python -m venv --without-pip /app/venv \
 && uv pip install --no-cache --compile-bytecode --python /app/venv --require-hashes -r requirements/app.lock
COPY pyproject.toml README.md LICENSE ./
COPY projects/monolith/ projects/monolith/
# The build backend is held to the hashes of the development lock.
RUN uv build --no-cache --wheel --require-hashes --build-constraint requirements/dev.lock \
 && uv pip install --no-cache --compile-bytecode --no-deps --python /app/venv dist/*.whl

FROM python:3.11-slim-trixie@sha256:45037981b62b34b44602584fccbc4d884d5f7dc92c7ee86bb38a698a79fe1e51
# The vault is pushed with git; Debian keeps only its latest security update, so no version is named.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends git \
 && rm -rf /var/lib/apt/lists/*
COPY --from=build /app/venv /app/venv
COPY projects/monolith/migrations/ /app/migrations/
ENV PATH=/app/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    LISTEN_HOST=0.0.0.0
USER 65532:65532
EXPOSE 8000
CMD ["monolith", "serve"]
