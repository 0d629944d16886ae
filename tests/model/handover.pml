/* The handover of a container from a source S to a destination D (docs/handover.md), for spin.
 *
 * What survives a crash: the journals, the containers themselves (a frozen one stays frozen), and messages on
 * their way. What does not: the place in the program. Each statement is one write to disk, one
 * message or one act on a container, and either daemon may die between any two of them. Messages may be lost, come
 * twice, late and in any order. Losses, repetitions and crashes are bounded in number, not in time: otherwise
 * nothing would ever be sure to arrive.
 *
 * -DBROKEN=n builds a protocol with one mistake, which the check must find:
 *   1 S lets the original run on when COMMIT is not answered
 *   2 S sends COMMIT before its decision is on disk
 *   3 D in READY runs the container without asking
 *   4 D in READY throws the container away without asking
 *   5 S does not repeat COMMIT after a crash, and answers no question
 *   6 S lets the original run after a crash, and writes no ABORT
 */

#ifndef BROKEN
#define BROKEN 0
#endif
#ifndef CRASHES
#define CRASHES 3 /* of both daemons together */
#endif
#ifndef LOSSES
#define LOSSES 2
#endif
#ifndef REPEATS
#define REPEATS 2
#endif

mtype = { NOTHING, STARTED, COMMIT, ABORT, PREPARED, READY, COMMITTED, DISCARDED };

/* Journals: on disk. */
mtype s_journal = NOTHING;  /* STARTED */
mtype s_decision = NOTHING; /* COMMIT or ABORT, once and for all */
mtype d_journal = NOTHING;  /* PREPARED, READY, COMMITTED or DISCARDED */

/* Containers: in the kernel. */
bool s_runs = true;    /* else it is frozen, or gone */
bool s_exists = true;
bool d_runs = false;   /* else nothing, or a restore that is held before the first instruction */

bool s_down = false;
bool d_down = false;

/* Messages: on their way now, and ever sent (those may come again). */
#define PREPARE_ 0
#define PREPARED_ 1
#define IMAGES_ 2
#define READY_ 3
#define FAILED_ 4
#define COMMIT_ 5
#define ABORT_ 6
#define RUNNING_ 7
#define ASK_ 8
#define MESSAGES 9
bool net[MESSAGES];
bool sent[MESSAGES];

#define send(m) d_step { net[m] = true; sent[m] = true }
#define arrived(m) d_step { net[m] -> net[m] = false }
#define quiet(m) !net[m]

/* ---- source ---- */

inline answer()
{
    if
    :: s_decision == COMMIT -> send(COMMIT_)
    :: s_decision == ABORT -> send(ABORT_)
    fi
}

proctype Source()
{
begin:
    {
        if
        :: s_decision == COMMIT -> goto commit
        :: s_decision == ABORT -> goto abort
        :: s_decision == NOTHING && s_journal == STARTED ->
#if BROKEN == 6
            s_runs = true;
            goto serve
#else
            goto abort
#endif
        :: s_journal == NOTHING -> s_journal = STARTED
        fi;

        do /* prepare; a question waits until there is an answer */
        :: quiet(PREPARE_) && quiet(PREPARED_) && quiet(FAILED_) -> send(PREPARE_)
        :: arrived(PREPARED_); break
        :: arrived(FAILED_); goto abort
        :: goto abort /* cancelled, timed out, refused, … */
        od;

        s_runs = false; /* frozen */
        do /* transfer */
        :: quiet(IMAGES_) && quiet(READY_) && quiet(FAILED_) -> send(IMAGES_)
        :: arrived(READY_); break
        :: arrived(FAILED_); goto abort
        :: goto abort
        od;

#if BROKEN == 2
        skip; /* spin wants no jump into a d_step */
        send(COMMIT_);
#endif
        s_decision = COMMIT;
commit:
        do /* repeated until it is answered */
        :: quiet(COMMIT_) && quiet(RUNNING_) -> send(COMMIT_)
        :: arrived(RUNNING_); break
        :: d_step { quiet(RUNNING_) && net[ASK_] -> net[ASK_] = false }; answer()
#if BROKEN == 1
        :: s_runs = true; goto serve
#endif
        od;
        s_exists = false; /* the frozen original is killed */
        goto serve;

abort:
        s_decision = ABORT;
        s_runs = true; /* thawed */
        send(ABORT_);

serve:
        do
        :: arrived(ASK_); answer()
        :: arrived(RUNNING_) /* late ones; all others are left lying */
        od
    } unless {
        s_down
    };
    s_down = false;
#if BROKEN == 5
    if
    :: s_decision == COMMIT -> false
    :: else
    fi;
#endif
    goto begin
}

/* ---- destination ---- */

/* The held restore goes on; when it died, the container is restored again from the verified images. So it does not
 * matter whether it outlived its daemon. */
inline let_run()
{
    d_runs = true;
    send(RUNNING_)
}

proctype Destination()
{
begin:
    {
        if
        :: d_journal == COMMITTED -> let_run()
        :: d_journal == PREPARED -> d_journal = DISCARDED; send(FAILED_)
        :: else
        fi;

        do
        :: arrived(PREPARE_);
            if
            :: d_journal == NOTHING -> d_journal = PREPARED; send(PREPARED_)
            :: d_journal == PREPARED -> send(PREPARED_)
            :: d_journal == DISCARDED -> send(FAILED_) /* a late one brings nothing back */
            :: else
            fi
        :: arrived(IMAGES_);
            if
            :: d_journal == PREPARED ->
                if
                :: d_journal = READY; send(READY_)
                :: d_journal = DISCARDED; send(FAILED_) /* a wrong checksum, a failed restore */
                fi
            :: d_journal == READY -> send(READY_)
            :: d_journal == DISCARDED -> send(FAILED_)
            :: else
            fi
        :: d_journal == READY && quiet(ASK_) && quiet(COMMIT_) && quiet(ABORT_) -> send(ASK_)
        :: arrived(COMMIT_);
            if
            :: d_journal == READY -> d_journal = COMMITTED; let_run()
            :: d_journal == COMMITTED -> send(RUNNING_)
            :: else -> assert(false) /* S decides after READY, and READY is never taken back */
            fi
        :: arrived(ABORT_);
            if
            :: d_journal == COMMITTED -> assert(false)
            :: d_journal == DISCARDED
            :: else -> d_journal = DISCARDED
            fi
#if BROKEN == 3
        :: d_journal == READY -> d_journal = COMMITTED; let_run()
#endif
#if BROKEN == 4
        :: d_journal == READY -> d_journal = DISCARDED
#endif
        od
    } unless {
        d_down
    };
    d_down = false;
    goto begin
}

/* ---- what goes wrong ---- */

#define mishaps(m)                                                                                 \
    :: atomic { losses > 0 && net[m] -> net[m] = false; losses-- }                                 \
    :: atomic { repeats > 0 && sent[m] && !net[m] -> net[m] = true; repeats-- }

proctype Trouble()
{
    byte crashes = CRASHES, losses = LOSSES, repeats = REPEATS;

    do
    :: atomic { crashes > 0 && !s_down -> s_down = true; crashes-- }
    :: atomic { crashes > 0 && !d_down -> d_down = true; crashes-- }
    mishaps(PREPARE_)
    mishaps(PREPARED_)
    mishaps(IMAGES_)
    mishaps(READY_)
    mishaps(FAILED_)
    mishaps(COMMIT_)
    mishaps(ABORT_)
    mishaps(RUNNING_)
    mishaps(ASK_)
    :: break
    od;
    do /* from here on all goes well; time passes, also when nobody acts any more */
    :: _nr_pr > 0 /* always; spin refuses a plain `skip` */
    od
}

init
{
    atomic {
        run Source();
        run Destination();
        run Trouble()
    }
}

/* ---- what must hold ---- */

#define one_runs ((s_runs && !d_runs) || (!s_runs && d_runs))

/* Never two; S never runs after COMMIT; nothing runs on D without COMMIT; the original is not killed before D has
 * taken the container over for good. */
ltl safe {
    [] (!(s_runs && d_runs) && (s_decision == COMMIT -> !s_runs) &&
        (d_runs -> s_decision == COMMIT) && (s_exists || d_runs))
}

/* Not none for ever: in the end exactly one runs, and both sides know. */
ltl alive {
    <> [] (one_runs && (d_runs -> d_journal == COMMITTED) && (s_runs -> d_journal != READY))
}
