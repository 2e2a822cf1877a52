#!/usr/bin/env bash
# Build the images of the components, by the names that their files give:
#   docker/build-components.sh                            # for this machine
#   docker/build-components.sh registry.example/team      # and push them there
#   docker/build-components.sh registry.example/team 7    # with a tag of their own
set -euo pipefail
cd "$(dirname "$0")/.."
registry=${1:+${1%/}/}
SETUPTOOLS_SCM_PRETEND_VERSION_FOR_CAPTIONFLOW=$(python3 -m captionflow.core.code_version)
export SETUPTOOLS_SCM_PRETEND_VERSION_FOR_CAPTIONFLOW
# An image is named after the extra that it holds; several components may share it.
mapfile -t images < <(sed -n 's/^ *image: //p' kfp_pipeline/components/*/component.yaml | sort -u)
for name in "${images[@]}"; do
  image=$registry${name%:*}:${2:-${name##*:}}
  extra=${name#captionflow-}
  echo "building $image" >&2
  docker build --quiet --build-arg EXTRAS="${extra%:*}" \
    --build-arg SETUPTOOLS_SCM_PRETEND_VERSION_FOR_CAPTIONFLOW --tag "$image" .
  [ -z "$registry" ] || docker push "$image"
done
