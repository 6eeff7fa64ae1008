#!/bin/sh
# Writes the secrets of docker-compose.yml into ./secrets, once: what is there stays. An empty hub token means none.
set -eu
umask 077
mkdir -p secrets

secret() {
  [ -e "secrets/$1" ] || printf '%s' "$2" > "secrets/$1"
  # Containers read it under users of their own; the folder keeps other users of this host out.
  chmod 444 "secrets/$1"
}

random() {
  od -An -N24 -tx1 /dev/urandom | tr -d ' \n'
}

secret postgres_password "$(random)"
secret grafana_password "$(random)"
secret hub_token ""
if [ ! -e secrets/aws_credentials ] && [ ! -e secrets/s3_identities ]; then # two sides of one key
  key=$(random)
  secret aws_credentials "[default]
aws_access_key_id = headroom
aws_secret_access_key = $key
"
  actions='["Admin", "Read", "Write", "List", "Tagging"]'
  secret s3_identities '{"identities": [{"name": "headroom", "actions": '"$actions"',
  "credentials": [{"accessKey": "headroom", "secretKey": "'"$key"'"}]}]}
'
fi
