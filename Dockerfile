# One file for every image; the build argument EXTRAS says what it holds (see [project.optional-dependencies]):
#   docker build --build-arg EXTRAS=train -t captionflow-train \
#     --build-arg SETUPTOOLS_SCM_PRETEND_VERSION_FOR_CAPTIONFLOW="$(python3 -m captionflow.core.code_version)" .
# TFX has an environment of its own: TFX=1 adds it, EXTRAS=tfx makes an image of it alone.

FROM python:3.11-slim-bookworm AS dependencies
# Of Debian, such as a Java for Flink. libseccomp2, which confines the decoding of pictures, is there: apt needs it.
ARG PACKAGES=
RUN [ -z "$PACKAGES" ] || { apt-get update && apt-get install --yes --no-install-recommends $PACKAGES \
 && rm -rf /var/lib/apt/lists/*; }
ENV UV_NO_CACHE=1 UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1
WORKDIR /build
COPY requirements.lock pyproject.toml ./
# uv and what builds our wheel, at the version and hash of the lock.
RUN awk '/^[a-z]/ {wanted = /^(uv|setuptools|setuptools-scm|vcs-versioning|packaging)==/} wanted && !/^ *#/' requirements.lock > tools.txt \
 && pip install --no-cache-dir --require-hashes --target /tools -r tools.txt
COPY docker/install-extras.sh docker/
ARG EXTRAS=all
# Wherever a step runs, its artifacts may lie in a bucket.
RUN export PATH=/tools/bin:$PATH PYTHONPATH=/tools \
 && [ "$EXTRAS" = tfx ] || docker/install-extras.sh /opt/captionflow "gcs,s3,$EXTRAS"
COPY tfx_pipeline/requirements.lock tfx_pipeline/
COPY docker/install-tfx.sh docker/
ARG TFX=
RUN export PATH=/tools/bin:$PATH PYTHONPATH=/tools \
 && if [ "$EXTRAS" = tfx ]; then docker/install-tfx.sh /opt/captionflow; \
    elif [ -n "$TFX" ]; then docker/install-tfx.sh /opt/captionflow-tfx; fi

# Apart from the dependencies, so that a change of the code is a small layer.
FROM dependencies AS code
ENV PATH=/tools/bin:$PATH PYTHONPATH=/tools VIRTUAL_ENV=/opt/captionflow
COPY README.md LICENSE ./
COPY captionflow captionflow
COPY beam_jobs beam_jobs
COPY tfx_pipeline tfx_pipeline
COPY kfp_pipeline kfp_pipeline
# There is no git here to ask.
ARG SETUPTOOLS_SCM_PRETEND_VERSION_FOR_CAPTIONFLOW
# The wheel stays, for the workers of a remote Beam runner.
RUN uv build --quiet --wheel --no-build-isolation --out-dir /opt/code/wheel . \
 && uv pip install --quiet --no-deps --target /opt/code /opt/code/wheel/*.whl

FROM dependencies
# Volumes that are mounted here take over who may write.
RUN useradd --create-home --uid 1000 captionflow \
 && install --directory --owner captionflow /artifacts /mlflow /home/captionflow/airflow /home/captionflow/airflow/logs \
 && for python in /opt/captionflow*/bin/python; do \
      echo /opt/code > "$($python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/captionflow.pth"; done
COPY --from=code /opt/code /opt/code
ENV PATH=/opt/code/bin:/opt/captionflow/bin:$PATH PYTHONUNBUFFERED=1 \
    CAPTIONFLOW_TFX_PYTHON=/opt/captionflow-tfx/bin/python
# By number, so that Kubernetes can tell that it is not root.
USER 1000
WORKDIR /home/captionflow
CMD ["captionflow", "--help"]
