#!/bin/sh
# Write the passwords of a run's users, and the access rules with their digests:  make-acl.sh RUN FOLDER
#   FOLDER/ROLE.password  for command, learner, actor, viewer and operator; one that is there already stays
#   FOLDER/users.acl      for `redis-server --aclfile`; holds digests alone
set -eu
run=${1:?usage: make-acl.sh RUN FOLDER} folder=${2:?usage: make-acl.sh RUN FOLDER}
case $run in
  *[!a-z0-9-]* | -*) echo "make-acl.sh: '$run' is not the name of a run: lower-case letters, digits, hyphens" >&2 && exit 64 ;;
esac
umask 077
mkdir -p "$folder"
new=$folder/users.acl.new
: >"$new"
while read -r word user rules; do
  case $rules in
    *'>PASSWORD'*)
      secret=$folder/$user.password
      [ -s "$secret" ] || od -An -N24 -tx1 /dev/urandom | tr -d ' \n' >"$secret"
      digest=$(sha256sum <"$secret")
      rules=$(printf '%s\n' "$rules" | sed -e "s/>PASSWORD/#${digest%% *}/" -e "s/{RUN}/{$run}/g")
      ;;
  esac
  printf '%s %s %s\n' "$word" "$user" "$rules" >>"$new"
done <"$(dirname "$0")/users.acl"
chmod 644 "$new"
mv "$new" "$folder/users.acl"
