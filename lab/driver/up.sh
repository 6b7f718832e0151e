#!/bin/sh
# SIMULATED NVIDIA driver: lays its traces over /proc, /sys and /dev of this lab host, or takes them
# away again. Nothing here comes near a real device: the nodes are the null device's.
set -eu
home=/etc/simulated-nvidia

down() {
  for over in /proc/driver /sys/bus/pci/devices /sys/module /sys/firmware; do
    while grep -q "^simulated-nvidia $over " /proc/self/mounts; do umount "$over"; done
  done
  rm -f /dev/nvidia[0-9]* /dev/nvidiactl /dev/nvidia-uvm /dev/nvidia-uvm-tools
}

over() {  # over PATH: an empty place on top of it; /sys of a container may lack it altogether
  [ -d "$1" ] || { mount -o remount,rw /sys; mkdir -p "$1"; mount -o remount,ro /sys; }
  mount -t tmpfs -o size=1m,mode=755 simulated-nvidia "$1"
}

up() {
  down
  over /sys/bus/pci/devices
  mkdir "/sys/bus/pci/devices/.drivers"
  while read -r address class device driver; do
    mkdir "/sys/bus/pci/devices/$address"
    cd "/sys/bus/pci/devices/$address"
    echo 0x10de >vendor
    echo "$class" >class
    echo "0x$device" >device
    [ "$driver" = - ] || { mkdir -p "../.drivers/$driver"; ln -s "../.drivers/$driver" driver; }
    cd /
  done <"$home/pci"
  over /sys/module
  while read -r module; do mkdir "/sys/module/$module"; done <"$home/modules"
  [ ! -s "$home/module_version" ] || cat "$home/module_version" >/sys/module/nvidia/version
  if [ -s "$home/secure_boot" ]; then
    over /sys/firmware
    mkdir -p /sys/firmware/efi/efivars
    cat "$home/secure_boot" \
      >/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c
  fi
  [ -s "$home/proc_version" ] || return 0
  over /proc/driver
  mkdir /proc/driver/nvidia
  cat "$home/proc_version" >/proc/driver/nvidia/version
  while read -r node; do mknod -m 666 "/dev/$node" c 1 3; done <"$home/nodes"
}

"$1"
