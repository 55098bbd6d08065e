#!/bin/sh
# Starts the program of this folder under whose name it is called, or, as polystrate-env, the command
# it is given: Open MPI and PMIx look for their parts where they were built unless they are told.
set -e
home=$(dirname "$(dirname "$(readlink -f "$0")")")
name=$(basename "$0")
lib=$home/@library_folder@

export OPAL_PREFIX="$home"
export PMIX_MCA_mca_base_component_path="$home/@pmix_plugins@"
export PATH="$home/bin:$PATH"
# Where there is nothing to reach other hosts with, Open MPI refuses to start on this one.
if ! command -v ssh >/dev/null && ! command -v rsh >/dev/null; then
  export OMPI_MCA_plm="${OMPI_MCA_plm:-isolated}"
fi

case $name in
  # These are the distribution's, which know nothing of this folder; the loader tells them, and no child
  # of theirs, which may be the host's own ssh.
  mpirun | orted) exec "@loader@" --library-path "$lib" "$home/libexec/$name" "$@" ;;
  polystrate-env) exec "$@" ;;
  *) exec "$home/libexec/$name" "$@" ;;
esac
