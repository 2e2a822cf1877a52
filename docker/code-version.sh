#!/usr/bin/env bash
# Print what captionflow.core.artifact.code_version says of this checkout, for an image that has none.
set -euo pipefail
cd "$(dirname "$0")/.."
version=$(git rev-parse --short=12 HEAD)
git diff --quiet HEAD || version=$version.dirty.$(printf %s "$(git diff HEAD)" | sha256sum | cut -c1-8)
echo "$version"
