# `./dev deploy-check`: Prometheus with deploy/prometheus, only the addresses changed, over running roles; what alerts and
# dashboard ask is asked there.
# Ports and programs are those of `distributed_runs`, which calls this.
# shellcheck shell=bash disable=SC2154

prometheus_start() {
    local dir=$WORK/prometheus
    mkdir -p "$dir"
    cp deploy/prometheus/alerts.yml "$dir"
    sed -e "s/ingest-1:9091/127.0.0.1:${metrics[1]}/; s/ingest-2:9091/127.0.0.1:${metrics[2]}/" \
        -e "s/worker-1:9091/127.0.0.1:${metrics[3]}/; s/worker-2:9091/127.0.0.1:${metrics[4]}/" \
        deploy/prometheus/prometheus.yml >"$dir/prometheus.yml"
    free_ports prometheus
    start prometheus prometheus --config.file="$dir/prometheus.yml" --storage.tsdb.path="$dir/data" \
        --web.listen-address="127.0.0.1:$prometheus"
}

# Two scrapes of each role, 15 s apart: rates need them.
prometheus_scrapes() {
    wait_until 90 scraped_twice
    "$PYTHON" dev.d/dashboard.py "http://127.0.0.1:$prometheus" || fail prometheus "a question of alerts or dashboard has no answer"
    good "Prometheus scrapes; every question of alerts and dashboard has an answer"
}

scraped_twice() {
    local query='count(count_over_time(openclaw_build_info[5m]) >= 2) == 4'
    curl -fsSG "http://127.0.0.1:$prometheus/api/v1/query" --data-urlencode "query=$query" | grep -q '"value"'
}
