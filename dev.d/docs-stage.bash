#!/usr/bin/env bash
# Run by `./dev docs-check` on a machine of its own (machine.bash): installs OpenClaw as deploy/README.md says, then walks the pages.
# /shared has the program, a configuration folder and the list of this checkout's files.
set -euo pipefail

install /shared/openclaw /usr/local/bin/openclaw
useradd --system openclaw
install -m 644 'deploy/systemd/openclaw@.service' /etc/systemd/system/
cp -r /shared/config /etc/openclaw
sed -i 's|data_dir: .*|data_dir: /var/lib/openclaw|' /etc/openclaw/config.yaml
install -m 600 <(echo "OPENCLAW_FEISHU__BASE_URL=http://127.0.0.1:9399") /etc/openclaw/run.env
mkdir -p /path/to
cp -r /shared/config /path/to/config
chown -R openclaw: /path
cp deploy/supervisor/openclaw.conf /etc/supervisor/conf.d/
echo '127.0.0.1 localhost ingest-1 ingest-2' >/etc/hosts
# Where commands run: a checkout with the folder that the pages call config/.
mkdir /stage
xargs -0 cp --parents -t /stage </shared/files
cp -r /shared/config /stage/config
exec python3 dev.d/docs_check.py
