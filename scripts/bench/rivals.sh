# How others mount a bucket, for the benchmarks that stand beside them. Sourced after scripts/lib.sh, never run.
# shellcheck shell=bash

# mount_bucket NAME URL KEY SECRET BUCKET[/PREFIX] PLACE BASE: NAME is rclone or s3fs; BASE is for its cache. s3fs takes no
# prefix that has no object of its own: with it the whole bucket is mounted.
mount_bucket() {
  local name=$1 url=$2 key=$3 secret=$4 from=$5 place=$6 base=$7
  mkdir -p "$base/cache"
  owned_mounts+=("$place")
  case $name in
    rclone)
      # Without the bundle variable: rclone 1.60 refuses to work with it, and http needs none.
      env -u AWS_CA_BUNDLE rclone mount --daemon --vfs-cache-mode full --cache-dir "$base/cache" --config /dev/null \
        ":s3,provider=Other,endpoint='$url',access_key_id=$key,secret_access_key=$secret,force_path_style=true:$from" "$place" >&2
      ;;
    s3fs)
      (umask 077 && printf '%s:%s\n' "$key" "$secret" >"$base/password")
      s3fs "${from%%/*}" "$place" -o passwd_file="$base/password" -o url="$url" -o use_path_request_style \
        -o use_cache="$base/cache" >&2
      ;;
    *) die "unknown rival: $name" ;;
  esac
  mounted_soon "$place"
}

# mounted_soon PLACE: some return before they serve.
mounted_soon() {
  for _ in $(seq 1000); do
    ! is_mounted "$1" || return 0
    sleep 0.01
  done
  return 1
}
