# One look of the dead-man's switch, a minute after the other (docs/adopting.md). Nobody of the daemon has been here for
# DEADMAN_S seconds, and no request has come in the last hour: stop the servers and power off. Seconds are counted since
# the boot, so that no clock that is set can trip it. What cannot be read counts as a request: then nothing happens.
CLOCK="${DEAD_MAN_CLOCK:-/proc/uptime}"
QUIET_S=$((DEADMAN_S / 6 < 3600 ? DEADMAN_S / 6 : 3600))
COUNTERS='vllm:(prompt_tokens_total|generation_tokens_total|request_success_total|num_requests_(running|waiting))'
COUNTERS="$COUNTERS|sglang:(prompt|generation|realtime)_tokens_total|sglang:num_(requests_total|running_reqs|queue_reqs)"
COUNTERS="$COUNTERS|llamacpp:(prompt_tokens_total|tokens_predicted_total|requests_(processing|deferred))"
COUNTERS="$COUNTERS|te_(request_count|queue_size)"

figures() (  # PORT: what its server counts; ends with 7 when nobody listens there
    if [ "$WANTS_TLS" -eq 1 ]; then
        exec curl -s -k -m 10 --max-filesize 8388608 "https://$HERE:$1$METRICS_PATH"
    fi
    exec 3<>"/dev/tcp/$HERE/$1" || exit 7
    printf 'GET %s HTTP/1.0\r\nHost: %s\r\nConnection: close\r\n\r\n' "$METRICS_PATH" "$HERE" >&3
    timeout 10 head -c 8388608 <&3
) 2>/dev/null

counted() {  # another word after each request, and "unknown" when a server answers and does not say
    local port page code
    for port in $PORTS; do
        code=0
        page="$(figures "$port")" || code=$?
        [ "$code" -ne 7 ] || continue
        printf '%s\n' "$page" | grep -E "^($COUNTERS)[{ ]" || { echo unknown; return; }
    done
}

now="$(cut -d . -f 1 "$CLOCK")"
[ "$now" -ge 0 ] || exit 1
visited_at=$now asked_at=$now count='' mark=''
[ ! -r "$RUN/dead_man" ] || read -r visited_at asked_at count mark <"$RUN/dead_man"
[ "$visited_at" -le "$now" ] && [ "$asked_at" -le "$now" ] || visited_at=$now asked_at=$now

count_now="$(counted | sha256sum | cut -c 1-64)"
unknown="$(echo unknown | sha256sum | cut -c 1-64)"
mark_now="$(head -c 64 "$RUN/secrets/visited" 2>/dev/null | tr -dc 0-9)"
[ "$mark_now" = "$mark" ] || visited_at=$now
[ "$count_now" = "$count" ] && [ "$count_now" != "$unknown" ] || asked_at=$now
printf '%s %s %s %s\n' "$visited_at" "$asked_at" "$count_now" "$mark_now" >"$RUN/dead_man.new" &&
    mv -f "$RUN/dead_man.new" "$RUN/dead_man" || exit 1
[ $((now - visited_at)) -ge "$DEADMAN_S" ] && [ $((now - asked_at)) -ge "$QUIET_S" ] || exit 0

echo "$(date -u +%Y-%m-%dT%H:%M:%SZ) no daemon for $((now - visited_at)) s, no request for $((now - asked_at)) s: powering off"
for ((i = 0; i < REPLICAS; i++)); do
    timeout -k 5 80 docker stop --time 60 "autoscaler-$i" >/dev/null 2>&1
done
[ -n "$ROOT" ] || systemctl stop autoscaler-server.service 2>/dev/null
sync
"${ROOT:+$ROOT/bin/}poweroff"
