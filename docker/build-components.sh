#!/usr/bin/env bash
# Build the images of the components, by the names that their files give:
#   docker/build-components.sh                        # for this machine
#   docker/build-components.sh registry.example/team  # and push them there
set -euo pipefail
cd "$(dirname "$0")/.."
registry=${1:+${1%/}/}
for file in kfp_pipeline/components/*/component.yaml; do
  image=$registry$(sed -n 's/^ *image: //p' "$file")
  echo "building $image" >&2
  docker build --quiet --build-arg EXTRAS="$(basename "$(dirname "$file")")" \
    --build-arg CODE_VERSION="$(git rev-parse --short=12 HEAD)" --tag "$image" .
  [ -z "$registry" ] || docker push "$image"
done
