#!/bin/sh
# What mpirun calls in ssh's place: enter.sh ADDRESS COMMAND... runs COMMAND on the host with that address.
# HOSTS is "ADDRESS=NAMESPACE ..."; hosts need names of their own, or Open MPI takes them for one machine.
address=$1
shift
for pair in $HOSTS; do
    if [ "${pair%%=*}" = "$address" ]; then
        name=${pair#*=}
        exec ip netns exec "$name" unshare --uts /bin/sh -c "hostname $name; $*"
    fi
done
echo "enter.sh: no host has the address $address" >&2
exit 1
