#!/bin/bash
# The cluster of two_hosts.yaml without the launcher, for those who start and watch processes by other
# means. Run on node1; each of the three stays in front, so give each a unit or a terminal of its own:
#   two_hosts.sh a | b | coordinator
set -eu
engine() {  # HOSTS LISTEN
  exec /usr/bin/mpirun -np 4 --host "$1" --map-by slot --bind-to none --tag-output \
    --mca oob_tcp_if_include eth1 --mca btl_tcp_if_include eth1 -x NCCL_SOCKET_IFNAME=eth1 \
    /usr/local/bin/polystrate serve --model /srv/models/demo --tp 2 --pp 2 --device cpu --max_num_seqs 64 \
    --api_key_file /etc/polystrate/engine_key --listen "$2"
}
case ${1:-} in
  a) engine node1:2,node2:2 node1:50051 ;;
  b) engine node2:2,node1:2 node2:50051 ;;
  coordinator)
    exec /usr/local/bin/polystrate coordinator --engine node1:50051 --engine node2:50051 \
      --engine_api_key_file /etc/polystrate/engine_key --listen 0.0.0.0:50050 --http_listen 0.0.0.0:8000 ;;
  *) echo "usage: $0 a | b | coordinator" >&2; exit 2 ;;
esac
# To drain: SIGTERM to the coordinator, wait for it, then SIGUSR1 to each mpirun.
