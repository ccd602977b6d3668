# shellcheck shell=bash
# Sourced by the batch scripts: runs a command, hands it Slurm's warning, and puts the job back into the queue.
#
# Slurm warns the batch script alone (`--signal=B:TERM@300`) before the time limit, and before a preemption where
# slurm.conf has `SlurmctldParameters=preempt_send_user_signal` and a GraceTime. Without a warning Slurm requeues a
# preempted job by itself, and the run goes on from its last checkpoint. `scancel` sends the same signal; what it has
# cancelled is left to end.

readonly TRY_AGAIN="69 74 78" # exit codes of what another start may cure: unreachable, storage, stalled
child=
warned=
interrupted=

warn() {
  warned=1
  cancelled || go_on_later # first: the actors of other jobs leave as soon as the program stops
  interrupted=1
  if [ -n "$child" ]; then
    kill -TERM "$child" 2>/dev/null || true
  else
    requeue # before anything has started
  fi
}

cancelled() {
  case $(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T) in CANCELLED | COMPLETING) ;; *) false ;; esac
}

# Let the actors of other jobs know that the run goes on in another start of this one; `train.sbatch` sets `later`.
go_on_later() {
  [ -z "${later:-}" ] || echo "$SLURM_JOB_ID" >"$later"
}

requeue() {
  if cancelled; then exit "${code:-0}"; fi # Slurm would put it back into the queue all the same
  go_on_later
  echo "requeued after exit code ${code:-0}, restart ${SLURM_RESTART_COUNT:-0}"
  scontrol requeue "$SLURM_JOB_ID"
  exit 0
}

# Run a command until it has ended, whatever signals arrive; sets `code`.
supervise() {
  "$@" &
  child=$!
  interrupted=1
  code=143
  while [ -n "$interrupted" ] && [ "$code" -eq 143 ]; do # the warning has ended the wait, not the command
    interrupted=
    code=0
    wait "$child" || code=$?
  done
}

# Requeue after a warning, or after a failure that another start may cure, at most MAX_REQUEUES times; else end.
finish() {
  case "$code" in # 143: the signal came before the command heeded it
    0 | 143) if [ -n "$warned" ]; then requeue; fi ;;
  esac
  case " $TRY_AGAIN " in
    *" $code "*) if [ "${SLURM_RESTART_COUNT:-0}" -lt "${MAX_REQUEUES:-3}" ]; then requeue; fi ;;
  esac
  exit "$code"
}

trap warn TERM
