#!/usr/bin/env bash
# Several machines without a shared disk: the ranks' stores lie in a bucket, where many read them.
# Motions and checkpoint are files of each machine. On each of them, with its own NODE:
#
#     NODE=0 NODES=2 BUCKET=s3://robots/expert bash examples/ranks_on_s3.sh \
#         --task Mjlab-Tracking-Flat-Unitree-G1 --motion motions/ --passes 1 --checkpoint model.pt \
#         --num-envs 1024 --max-steps 100000
#
# Credentials and endpoint are the environment's: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
# AWS_REGION, AWS_ENDPOINT_URL. Afterwards, anywhere:
#
#     mosaic-collect verify s3://robots/expert
#     mosaic-collect export s3://robots/expert expert.npy
set -euo pipefail
: "${BUCKET:?where to record, such as s3://robots/expert}"
exec bash "$(dirname "${BASH_SOURCE[0]}")/ranks_several_nodes.sh" --output "$BUCKET" "$@"
