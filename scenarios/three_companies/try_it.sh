#!/bin/sh
# All four people of README.md on one machine, to get a feel for it: a folder each, over the loopback interface.
#
#     scenarios/three_companies/try_it.sh [FOLDER]
#
# FOLDER must be new or empty; without one a temporary folder is made. The address is 127.0.0.1:$PORT (7700).
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
PATH=$root/.venv/bin:$PATH
port=${PORT:-7700}
people="coordinator bank card-network biller"

folder=${1:-$(mktemp -d)}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
if [ -n "$(ls -A "$folder")" ]; then
    echo "error: $folder is not empty; name a new one" >&2
    exit 2
fi
command -v vfl >/dev/null || { echo "error: no vfl command; run 'make install' in $root first" >&2; exit 2; }

say() { printf '\n== %s\n' "$*"; }

say "Everybody makes a folder, and an identity"
for who in $people; do
    mkdir "$folder/$who"
    sed "s/coordinator.example:7700/127.0.0.1:$port/" "$here/job.toml" >"$folder/$who/job.toml"
    (cd "$folder/$who" && vfl keygen "$who")
done
for who in bank card-network biller; do
    cp "$here/$who.toml" "$here/$(echo $who | tr - _).csv" "$folder/$who"
done

say "Everybody sends the .pub file to everybody"
for who in $people; do
    for other in $people; do
        [ "$who" = "$other" ] || cp "$folder/$who/$who.pub" "$folder/$other"
    done
done

say "Everybody checks; the fingerprints must be the same everywhere"
(cd "$folder/coordinator" && vfl check job.toml)
(cd "$folder/bank" && vfl check bank.toml)
for who in card-network biller; do
    (cd "$folder/$who" && vfl check $who.toml | grep "the job and all identities")
done

say "The coordinator listens, the three join"
others=
end() { for pid in $others; do kill "$pid" 2>/dev/null || :; done; }
trap end EXIT
trap 'exit 130' INT TERM
for who in coordinator card-network biller; do
    own=$who.toml
    (
        cd "$folder/$who"
        if [ $who = coordinator ]; then
            exec vfl coordinator job.toml --listen "127.0.0.1:$port" --identity coordinator.key --out run
        fi
        exec vfl join "$own" --out run
    ) >"$folder/$who/said.txt" 2>&1 &
    others="$others $!"
done
failed=0
(cd "$folder/bank" && vfl join bank.toml --out run) || failed=$?
for pid in $others; do
    wait "$pid" || failed=$?
done
trap - EXIT
if [ $failed != 0 ]; then
    tail -n 3 "$folder"/*/said.txt >&2
    exit $failed
fi

for who in coordinator card-network biller; do
    say "Meanwhile at $who"
    cat "$folder/$who/said.txt"
done
say "What the biller learnt (vfl audit run)"
(cd "$folder/biller" && vfl audit run)
say "Everything lies in $folder"
