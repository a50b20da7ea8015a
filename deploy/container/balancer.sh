#!/bin/sh
# HAProxy before the followers that are registered in the store; its configuration follows them.
set -eu
config=/run/balancer/haproxy.cfg
socket=/run/balancer/master.sock

follower loadbalancer haproxy --bind 0.0.0.0:1234 --output "$config" "$@"
haproxy -W -S "$socket" -f "$config" &
haproxy=$!
trap 'kill -USR1 $haproxy; wait $haproxy' TERM INT
follower loadbalancer haproxy --bind 0.0.0.0:1234 --output "$config" --master-socket "$socket" --watch "$@" &
wait $haproxy
