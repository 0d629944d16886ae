#!/usr/bin/env bats
# Containers: how they are run, shown and ended, those that only the runtime knows, and what of them moves: log,
# writable layer, volumes.
# shellcheck disable=SC2154 # variables of bats and of the library

load lib

setup_file()
{
    cluster_start 3 a b
    root_of busybox >/dev/null
}

teardown_file()
{
    cluster_stop
}

teardown()
{
    remove_everywhere web plain
    remove_plain plain
}

# in_web HOST COMMAND: in the container's shell.
in_web()
{
    cluster_cli "$1" container exec web sh -c "$2"
}

@test "from a root directory: list, show, logs, exec, stop, remove" {
    snapshot a >"$FM_WORK/a.before"
    run -0 cluster_cli a run --name web --image "$(root_of busybox)" --ip 10.88.0.5 --env COLOUR=blue \
        --label tier=front --workdir /tmp --memory 64MiB --json -- sh -c "$ticker"
    jq -e '.name == "web" and .state == "running" and .ip == "10.88.0.5/24"' <<<"$output"
    until_true ticks a web

    cluster_cli a container list --json | jq -e '
        length == 1 and (.[0] | .name == "web" and .state == "running" and .runtime == "runc" and (.found | not))'
    run -0 cluster_cli a container list
    [[ ${lines[1]} == web*running*10.88.0.5*runc* ]]
    cluster_cli a container show web --json | jq -e --argjson pid "$(identity_of a web | cut -d' ' -f1)" '
        .pid == $pid and .host == "host-a" and .mac == "02:fd:0a:58:00:05" and .labels == {tier: "front"}
        and .command[:2] == ["sh", "-c"]'
    run -0 cluster_cli a container show web
    [[ $output == *"state          running"* ]]

    run -0 cluster_cli a container logs web --tail 2
    [ "${#lines[@]}" -eq 2 ]
    [[ ${lines[1]} == tick\ * ]]
    cluster_cli a container logs web | head -n 2 | diff - <(printf 'tick 1\ntick 2\n')

    # shellcheck disable=SC2016
    run -0 --separate-stderr in_web a 'echo $COLOUR; pwd; echo oops >&2'
    [ "$output" = $'blue\n/tmp' ]
    [ "$stderr" = oops ]
    run -7 in_web a 'exit 7'
    run -0 cluster_cli a --json container exec web -- sh -c 'echo out; exit 0'
    jq -e '.exit_code == 0 and .stdout == "out\n" and .stderr == ""' <<<"$output"
    [ "$(cat "/sys/fs/cgroup/memory/fm-$cluster_prefix/a/web/memory.limit_in_bytes" 2>/dev/null ||
        cat "/sys/fs/cgroup/fm-$cluster_prefix/a/web/memory.max")" = 67108864 ]
    on c python3 -c 'import errno, socket, sys
sys.exit(socket.socket().connect_ex(("10.88.0.5", 1)) != errno.ECONNREFUSED)'

    refused 1 a run --name web --image "$(root_of busybox)" -- true
    refused 4 a container remove web
    run -0 cluster_cli a container stop web --timeout 100ms
    cluster_cli a container list --json | jq -e '.[0].state == "stopped"'
    run cluster_cli a container exec web true
    [ "$status" -ne 0 ]
    run -0 cluster_cli a container logs web --tail 1
    run -0 cluster_cli a container remove web --json
    [ "$output" = "{}" ]
    [ "$(cluster_cli a container list --json)" = "[]" ]
    assert_clean a web
    assert_nothing_new a "$FM_WORK/a.before"
}

@test "it ends by itself: the log stays until it is removed" {
    cluster_cli a -q run --name web --image "$(root_of busybox)" -- sh -c 'echo out; echo err >&2; exit 3'
    until_true stopped a web
    cluster_cli a container logs web | sort | diff - <(printf 'err\nout\n')
    run -0 cluster_cli a container remove web
    assert_clean a web
}

stopped()
{
    cluster_cli "$1" container show "$2" --json | jq -e '.state == "stopped"'
}

# An image of two layers as other tools write it: the second one changes, removes and hides files of the first.
make_oci_layout()
{
    local dir=$1
    python3 - "$dir" "$(root_of busybox)" <<'END'
import gzip, hashlib, io, json, os, platform, sys, tarfile
target, root = sys.argv[1:]
blobs = os.path.join(target, "blobs", "sha256")
os.makedirs(blobs)

def blob(data, kind):
    digest = hashlib.sha256(data).hexdigest()
    with open(os.path.join(blobs, digest), "wb") as f:
        f.write(data)
    return {"mediaType": f"application/vnd.oci.image.{kind}+json" if kind != "layer" else
            "application/vnd.oci.image.layer.v1.tar+gzip", "digest": "sha256:" + digest, "size": len(data)}

def layer(fill):
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        fill(tar)
    return blob(gzip.compress(raw.getvalue(), 1), "layer"), "sha256:" + hashlib.sha256(raw.getvalue()).hexdigest()

def text(tar, path, content):
    info = tarfile.TarInfo(path)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content.encode()))

def directory(tar, path):
    info = tarfile.TarInfo(path)
    info.type, info.mode = tarfile.DIRTYPE, 0o755
    tar.addfile(info)

def first(tar):
    tar.add(root, arcname=".")
    directory(tar, "opt")
    directory(tar, "opt/hidden")
    for path in ["opt/kept", "opt/changed", "opt/gone", "opt/hidden/old"]:
        text(tar, path, "first\n")

def second(tar):
    text(tar, "opt/changed", "second\n")
    text(tar, "opt/.wh.gone", "")
    directory(tar, "opt/hidden")
    text(tar, "opt/hidden/.wh..wh..opq", "")
    text(tar, "opt/hidden/new", "second\n")

layers = [layer(first), layer(second)]
arch = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
config = blob(json.dumps({"architecture": arch, "os": "linux", "rootfs": {"type": "layers", "diff_ids": [d for _, d in layers]},
    "config": {"Entrypoint": ["sh", "-c"], "Cmd": ["echo start $GREETING $PWD; exec sleep 1000"], "Env": ["PATH=/bin", "GREETING=hello"],
               "WorkingDir": "/opt"}}).encode(), "config.v1")
manifest = blob(json.dumps({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config,
    "layers": [d for d, _ in layers]}).encode(), "manifest.v1")
manifest["annotations"] = {"org.opencontainers.image.ref.name": "latest"}
with open(os.path.join(target, "index.json"), "w") as f:
    json.dump({"schemaVersion": 2, "manifests": [manifest]}, f)
with open(os.path.join(target, "oci-layout"), "w") as f:
    json.dump({"imageLayoutVersion": "1.0.0"}, f)
END
}

assert_is_the_image()
{
    [ "$(in_web "$1" 'cat /opt/kept /opt/changed; ls /opt /opt/hidden' | xargs)" = \
        "first second /opt: changed hidden kept /opt/hidden: new" ]
}

@test "from an OCI layout and from a tar of it, and moved" {
    local layout=$FM_WORK/layout kind
    make_oci_layout "$layout"
    tar -C "$layout" -cf "$layout.tar" .
    cp -a "$layout" "$layout-damaged"
    printf x >>"$(find "$layout-damaged/blobs" -size +900k)"
    refused 1 a run --name web --image "$layout-damaged"
    [[ $stderr == *"is damaged"* ]]
    assert_clean a web
    for kind in "$layout" "$layout.tar"; do
        cluster_cli a -q run --name web --image "$kind" --ip 10.88.0.5
        until_true logged a web "start hello /opt"
        assert_is_the_image a
        run -0 cluster_cli a -q migrate web --to host-b
        assert_is_the_image b
        [ "$(cluster_cli b container logs web)" = "start hello /opt" ]
        assert_clean a web
        cluster_cli b -q container remove --force web
        assert_clean b web
    done
}

logged()
{
    [ "$(cluster_cli "$1" container logs "$2")" = "$3" ]
}

@test "found: a container that was started by runc alone is listed, and moves there and back" {
    # shellcheck disable=SC2016  # the container's shell expands it
    run_plain a plain . sh -c 'n=0; while :; do n=$((n + 1)); echo $n >/tmp/count; usleep 20000; done' \
        </dev/null >/dev/null 2>&1
    cluster_cli a container list --json | jq -e '.[0] | .name == "plain" and .found and .state == "running"'
    run -0 cluster_cli a container list
    [[ $output == *"plain"*"runc (found)"* ]]
    on a runc exec plain sh -c 'echo written >/root/file; rm /etc/hosts'
    on a ln -s nowhere /var/lib/plain/plain/rootfs/root/link
    local before
    before=$(plain_count a)

    run -0 cluster_cli a -q migrate plain --to host-b
    assert_runs_only_on b plain
    until_true plain_counts_on b "$before"
    [ "$(on b runc exec plain sh -c 'cat /root/file; readlink /root/link; ls /etc/hosts 2>&1 | grep -c such' | xargs)" = "written nowhere 1" ]
    on b runc exec plain sh -c 'echo more >>/root/file'
    [ "$(on a runc list -q)" = "" ]
    on a test -d /var/lib/plain/plain/rootfs # its owner's, who may want it back

    before=$(plain_count b)
    run -0 cluster_cli b -q migrate plain --to host-a
    assert_runs_only_on a plain
    until_true plain_counts_on a "$before"
    [ "$(on a runc exec plain cat /root/file | xargs)" = "written more" ]
    assert_clean b plain
}

@test "found: dead on the destination, it is restored from the checkpoint on its own root" {
    # shellcheck disable=SC2016  # the container's shell expands it
    run_plain a plain . sh -c 'echo kept >/root/file; while :; do sleep 1; done' </dev/null >/dev/null 2>&1
    until_true on a runc exec plain test -s /root/file
    printf '#!/bin/sh\nexec runc kill plain KILL\n' >"$FM_WORK/kill"
    chmod 755 "$FM_WORK/kill"
    daemon_restart b "FLEXIMIGRATE_FAULT=step.register=run:$FM_WORK/kill"
    refused 5 a -q migrate plain --to host-b
    daemon_restart b
    [[ $stderr == *"rolled back from VERIFICATION"* ]]
    assert_runs_only_on a plain
    [ "$(on a runc exec plain cat /root/file)" = kept ]
    assert_clean b plain
}

plain_count()
{
    on "$1" runc exec plain cat /tmp/count
}

plain_counts_on()
{
    [ "$(plain_count "$1")" -gt "$2" ]
}

@test "found: its address on the bridge moves with it" {
    on a ip netns add plain
    on a ip link add plain0 type veth peer name eth0 netns plain
    on a ip link set plain0 master fmbr0 up
    on a ip -n plain link set eth0 up
    on a ip -n plain link set lo up
    on a ip -n plain addr add 10.88.0.9/24 dev eth0
    run_plain a plain '(.linux.namespaces[] | select(.type == "network")).path = "/run/netns/plain"' \
        httpd -f -p 80 -h /etc </dev/null >/dev/null 2>&1
    until_true on c curl -sf http://10.88.0.9/passwd
    cluster_cli a container show plain --json | jq -e '.found and .ip == "10.88.0.9/24"'
    run -0 cluster_cli a -q migrate plain --to host-b
    assert_runs_only_on b plain
    until_true on c curl -sf http://10.88.0.9/passwd
    run -0 cluster_cli b -q migrate plain --to host-a
    assert_runs_only_on a plain
    until_true on c curl -sf http://10.88.0.9/passwd
    on a ip netns del plain
}

@test "the log continues on the other host, and back: no line is missing or there twice" {
    run_ticker a web --ip 10.88.0.5
    run -0 cluster_cli a -q migrate web --to host-b
    ticks b web
    cluster_cli a container logs web 2>&1 | grep "no container 'web'"
    run -0 cluster_cli b -q migrate web --to host-a
    ticks a web
    cluster_cli a container logs web >"$FM_WORK/ticks"
    [ "$(wc -l <"$FM_WORK/ticks")" -gt 20 ]
    awk '$0 != "tick " NR { print "line " NR ": " $0; wrong = 1 } END { exit wrong }' "$FM_WORK/ticks"
}

@test "the writable layer moves: new, changed and removed files, replaced directories, links, owners, holes" {
    run_ticker a web
    in_web a '
        echo new >/root/new; mkdir -p /srv/deep/er; echo deep >/srv/deep/er/file
        echo changed >>/etc/passwd; rm /etc/group; chmod 4711 /bin/busybox
        rm -rf /var/log /usr/sbin; mkdir /usr/sbin; echo only >/usr/sbin/only
        ln -s /root/new /root/link; ln /root/new /root/hard; mkfifo /root/pipe
        echo own >/root/own; chown 7:8 /root/own; touch -d "2001-02-03 04:05:06" /root/own
        printf x | dd of=/root/holes bs=1 seek=50000000 2>/dev/null
        printf "odd \\n name" >"/root/a
b"; : >/root/empty; mkdir /root/emptydir; rmdir /tmp/none 2>/dev/null; true'
    local host=b from=a
    for host in b a; do
        run -0 cluster_cli $from -q migrate web --to "host-$host"
        from=$host
        [ "$(in_web $host 'cat /root/new /srv/deep/er/file /root/link /root/hard /usr/sbin/only; tail -n 1 /etc/passwd' | xargs)" = \
            "new deep new new only changed" ]
        in_web $host '! [ -e /etc/group ] && ! [ -e /var/log ] && [ "$(ls /usr/sbin)" = only ]'
        in_web $host '[ -p /root/pipe ] && [ -d /root/emptydir ] && [ -f /root/empty ] && [ -f "/root/a
b" ]'
        [ "$(in_web $host 'stat -c "%u:%g %Y" /root/own; stat -c %a /bin/busybox; stat -c %h /root/hard; stat -c %s /root/holes')" = \
            "$(printf '7:8 981173106\n4711\n2\n50000001')" ]
        [ "$(in_web $host 'du -k /root/holes | cut -f1')" -lt 1000 ]
        ticks $host web
        in_web $host "echo on-$host >>/root/visited"
    done
    [ "$(in_web a 'cat /root/visited' | xargs)" = "on-b on-a" ]
    assert_clean b web
}

@test "files that change while it moves are not lost" {
    # shellcheck disable=SC2016  # the container's shell expands it
    cluster_cli a -q run --name web --image "$(root_of busybox)" -- sh -c '
        n=0; while :; do n=$((n + 1)); echo $n >>/root/journal; echo $n >/root/f.$((n % 50)); usleep 5000; done'
    until_true in_web a 'test -s /root/f.49'
    local from=a host
    for host in b a b; do
        run -0 cluster_cli $from -q migrate web --to "host-$host"
        from=$host
    done
    # each number once, in order, and each small file holds one of the last fifty
    in_web b 'last=0; while read -r n; do last=$((last + 1)); [ "$n" = $last ] || exit 1; done </root/journal
              for f in /root/f.*; do [ $(cat $f) -ge $((last - 51)) ] || { echo "$f: $(cat $f) of $last"; exit 1; }; done'
}

@test "a volume moves, a shared one is left where it is" {
    on a sh -c 'mkdir -p /var/lib/volumes/own /var/lib/volumes/shared; echo data >/var/lib/volumes/own/file; echo a >/var/lib/volumes/shared/host'
    on b sh -c 'mkdir -p /var/lib/volumes/shared; echo b >/var/lib/volumes/shared/host'
    run_ticker a web --volume /var/lib/volumes/own:/data --volume /var/lib/volumes/shared:/shared:shared
    in_web a 'echo more >>/data/file; [ "$(cat /shared/host)" = a ]'
    run -0 cluster_cli a -q migrate web --to host-b
    [ "$(in_web b 'cat /data/file /shared/host' | xargs)" = "data more b" ]
    [ "$(on b cat /var/lib/volumes/own/file | xargs)" = "data more" ]
    [ "$(on a cat /var/lib/volumes/shared/host)$(on b cat /var/lib/volumes/shared/host)" = ab ]
    in_web b 'echo back >>/data/file; rm -f /data/none'
    run -0 cluster_cli b -q migrate web --to host-a
    [ "$(in_web a 'cat /data/file /shared/host' | xargs)" = "data more back a" ]
    cluster_cli a -q container remove --force web
    [ "$(on a cat /var/lib/volumes/own/file | xargs)" = "data more back" ] # a volume outlives its container
}

@test "somebody else's files at a volume's path on the destination are not touched" {
    on a sh -c 'mkdir -p /var/lib/volumes/mine; echo mine >/var/lib/volumes/mine/file'
    on b sh -c 'mkdir -p /var/lib/volumes/mine; echo theirs >/var/lib/volumes/mine/file'
    run_ticker a web --volume /var/lib/volumes/mine:/data
    local before
    before=$(identity_of a web)
    run --separate-stderr cluster_cli a -q migrate web --to host-b
    [ "$status" -eq 4 ] || [ "$status" -eq 5 ]
    [[ $stderr == *"volume /var/lib/volumes/mine exists on host 'host-b' and is not empty"* ]]
    [ "$(on b cat /var/lib/volumes/mine/file)" = theirs ]
    [ "$(identity_of a web)" = "$before" ]
    assert_clean b web
}
