#!/usr/bin/env bash
# FOLDER AMQP_PORT API_PORT METRICS_PORT ERLANG_PORT EPMD_PORT PROGRAM [ARGUMENT…]: runs `rabbitmq-server`, or `rabbitmqctl`
# against it, for the private node that lives in FOLDER; RABBITMQ_MORE_CONFIG names a file that is added to its configuration. Used by `./dev services` for the shared broker, and by the crate
# testkit for brokers that a test may break. Everything on loopback; user and password are `openclaw`.
set -euo pipefail

dir=$1 amqp=$2 api=$3 metrics=$4 erlang=$5 epmd=$6
shift 6

bin=''
for folder in /usr/lib/rabbitmq/bin /usr/lib/rabbitmq/lib/*/sbin; do
    # Debian's wrappers in PATH change user, folder and environment.
    if [[ -x $folder/rabbitmq-server ]]; then bin=$folder; fi
done
[[ -n $bin ]] || { echo "RabbitMQ is not installed" >&2; exit 69; }

if [[ ! -f $dir/rabbitmq.conf ]]; then
    mkdir -p "$dir/home"
    head -c 24 /dev/urandom | base64 | tr -d '+/=\n' >"$dir/home/.erlang.cookie"
    chmod 600 "$dir/home/.erlang.cookie"
    echo '[rabbitmq_management,rabbitmq_prometheus,rabbitmq_consistent_hash_exchange].' >"$dir/enabled_plugins"
    echo '[].' >"$dir/advanced.config"
    cat >"$dir/rabbitmq.conf" <<END
listeners.tcp.default = 127.0.0.1:$amqp
management.tcp.ip = 127.0.0.1
management.tcp.port = $api
prometheus.tcp.ip = 127.0.0.1
prometheus.tcp.port = $metrics
default_user = openclaw
default_pass = openclaw
default_user_tags.administrator = true
vm_memory_high_watermark.absolute = 2GB
disk_free_limit.absolute = 500MB
END
    # What is said twice holds as said last.
    if [[ -n ${RABBITMQ_MORE_CONFIG:-} ]]; then cat "$RABBITMQ_MORE_CONFIG" >>"$dir/rabbitmq.conf"; fi
fi

# A private epmd (Erlang's name server) keeps several projects on one machine apart.
export HOME=$dir/home ERL_EPMD_PORT=$epmd ERL_EPMD_ADDRESS=127.0.0.1
export RABBITMQ_NODENAME=openclaw$amqp@localhost RABBITMQ_DIST_PORT=$erlang
export RABBITMQ_NODE_IP_ADDRESS=127.0.0.1 RABBITMQ_NODE_PORT=$amqp
export RABBITMQ_MNESIA_BASE=$dir/mnesia RABBITMQ_LOG_BASE=$dir/log RABBITMQ_LOGS=$dir/log/node.log
export RABBITMQ_PID_FILE=$dir/pid RABBITMQ_CONFIG_FILE=$dir/rabbitmq.conf
export RABBITMQ_ADVANCED_CONFIG_FILE=$dir/advanced.config RABBITMQ_CONF_ENV_FILE=/dev/null
export RABBITMQ_GENERATED_CONFIG_DIR=$dir/generated RABBITMQ_FEATURE_FLAGS_FILE=$dir/feature_flags
export RABBITMQ_ENABLED_PLUGINS_FILE=$dir/enabled_plugins
export RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS='-kernel inet_dist_use_interface {127,0,0,1}'
cd "$dir"
exec "$bin/$1" "${@:2}"
