#!/bin/sh
# Makes the secrets of the demo stack that are missing: secrets.sh FOLDER [COPY]
#
# FOLDER is for you: yours alone (the owner of the folder above it). COPY, a volume that only containers see, is for the
# services, whose users differ. A secret that is there stays as it is.
set -eu
umask 077

folder=$1
copy=${2:-}
owner=$(stat -c %u:%g "$(dirname "$folder")")

mkdir -p "$folder"
for name in influxdb_password influxdb_token grafana_password; do
    if [ ! -s "$folder/$name" ]; then
        od -An -N24 -tx1 /dev/urandom | tr -d ' \n' >"$folder/.$name"
        mv "$folder/.$name" "$folder/$name"
    fi
    if [ -n "$copy" ]; then
        cp "$folder/$name" "$copy/.$name"
        chmod 444 "$copy/.$name"
        mv -f "$copy/.$name" "$copy/$name"
    fi
done
if [ -n "$copy" ]; then
    chmod 755 "$copy"
fi
chown -R "$owner" "$folder"
