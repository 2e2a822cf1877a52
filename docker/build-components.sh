#!/usr/bin/env bash
# Build the images of the components, by the names that their files give:
#   docker/build-components.sh                            # for this machine
#   docker/build-components.sh registry.example/team      # and push them there
#   docker/build-components.sh registry.example/team 7    # with a tag of their own
set -euo pipefail
cd "$(dirname "$0")/.."
registry=${1:+${1%/}/}
version=$(docker/code-version.sh)
for file in kfp_pipeline/components/*/component.yaml; do
  image=$registry$(sed -n 's/^ *image: //p' "$file")
  image=${image%:*}:${2:-${image##*:}}
  echo "building $image" >&2
  docker build --quiet --build-arg EXTRAS="$(basename "$(dirname "$file")")" \
    --build-arg CODE_VERSION="$version" --tag "$image" .
  [ -z "$registry" ] || docker push "$image"
done
