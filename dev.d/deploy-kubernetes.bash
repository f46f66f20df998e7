# `./dev deploy-check`: the containers of deploy/kubernetes with their arguments, their Secrets and their projected folder.
# Ports and programs are those of `distributed_runs`, which calls this.
# shellcheck shell=bash disable=SC2154

# kubectl puts it together; each container then starts from the folder that the kubelet would project.
kubernetes_runs() {
    local dir=$WORK/kubernetes.d number=5 role
    mkdir -p "$dir"
    kubectl kustomize deploy/kubernetes >"$dir/kustomized.yaml"
    sed -e "s|change-me # openclaw keys new|$OPENCLAW_KEY_2026A|; s/change-me/openclaw/" \
        deploy/kubernetes/secrets.example.yaml >"$dir/secrets.yaml"
    "$PYTHON" dev.d/projected.py "$dir" openclaw-worker "$dir/config"
    OTHER_PLACES="/etc/openclaw=$dir/config"$'\n'"$OTHER_PLACES"
    "${deployed[@]}" kubernetes "$dir" openclaw-migrate --as "$OPENCLAW" >"$WORK/migrate.log" 2>&1 || fail migrate "kubernetes: migrate"
    for role in ingest worker; do
        start "kubernetes-$role" "${deployed[@]}" kubernetes "$dir" "openclaw-$role" --as "$OPENCLAW" -- \
            --port "${ports[number]}" --metrics-port "${metrics[number]}"
        wait_until 60 curl -fsS -o "$WORK/answer" "http://127.0.0.1:${ports[number]}/readyz"
        number=$((number + 1))
    done
    stop worker-1 worker-2
    home=$dir push bot1 3 "${ports[5]}" || fail kubernetes-worker "kubernetes: no answer"
    good "Kubernetes: its containers' arguments, Secrets and folder"
}
