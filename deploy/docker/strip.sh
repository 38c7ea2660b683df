#!/bin/sh
# Leaves a base image without what installs: pip, setuptools and their bundled copies. Adds the user that everything runs as: libraries look for a
# name behind the number.
set -eu

for root in /usr/local/lib/python3* /usr/lib/python3*; do
  if [ -d "$root" ]; then
    rm -rf "$root/ensurepip" "$root/site-packages" "$root/dist-packages"
  fi
done
rm -f /usr/local/bin/pip* /usr/bin/pip* /usr/local/bin/wheel /usr/bin/wheel
rm -rf /usr/share/python-wheels ~root/.cache
echo 'semievol:x:65532:65532:SemiEvol:/var/lib/semievol:/sbin/nologin' >>/etc/passwd
echo 'semievol:x:65532:' >>/etc/group
mkdir -p /var/lib/semievol
chown 65532:65532 /var/lib/semievol
rm -- "$0"
