#!/bin/sh
# Asks a box and prints the answer, with mosquitto_rr (Debian: mosquitto-clients).
#
#     sh mosquitto_rr.sh HOST PORT edged/NODE 5 'Is 7 a prime number?'
#
# VERSION is 5, 3.1.1 or text: plain text in and out, without JSON.
set -eu
host=$1 port=$2 box=$3 version=$4 question=$5
rr() { mosquitto_rr -h "$host" -p "$port" -q 1 -W 120 "$@"; }

# A question inside JSON: backslashes and quotes are escaped, line ends become spaces.
json=$(printf '%s' "$question" | tr '\n' ' ' | sed 's/\\/\\\\/g; s/"/\\"/g')
case $version in
  5) rr -V 5 -t "$box/request/shell/chat" -e "$box/response/shell/rr-$$" -m "{\"prompt\": \"$json\"}" ;;
  3.1.1) rr -V 311 -t "$box/request/shell/chat" -e "$box/response/shell/chat" -m "{\"prompt\": \"$json\"}" ;;
  text) rr -V 311 -t "$box/ask" -e "$box/answer" -m "$question" ;;
esac
