/* File trees over a real connection: nothing is lost, nothing leaves the directory. */
#include "tree_world.h"

/* --- what a tree may hold
 * ---------------------------------------------------------------------------------- */

static void every_kind_of_file_arrives(void **state)
{
    struct fixture *f = *state;
    struct timespec old[2] = {{1000000000, 123456789}, {999999999, 987654321}};

    make_dir(f, "etc");
    make_dir(f, "etc/empty");
    write_text(f, "etc/passwd", "root:x:0:0\n");
    write_text(f, "none", "");
    write_text(f, "a\nb \xff\xfe \xc3\xa4", "bytes, not text");
    write_text(f, "-rf", "harmless");
    assert_int_equal(symlink("/etc/shadow", in(f->from, "absolute")), 0);
    assert_int_equal(symlink("../../../outside", in(f->from, "etc/dangling")), 0);
    assert_int_equal(mkfifo(in(f->from, "fifo"), 0622), 0);
    assert_int_equal(link(in(f->from, "etc/passwd"), in(f->from, "zz-second-name")), 0);
    assert_int_equal(link(in(f->from, "absolute"), in(f->from, "etc/absolute-too")), 0);
    assert_int_equal(utimensat(AT_FDCWD, in(f->from, "etc/passwd"), old, 0), 0);
    assert_int_equal(utimensat(AT_FDCWD, in(f->from, "absolute"), old, AT_SYMLINK_NOFOLLOW), 0);
    assert_int_equal(utimensat(AT_FDCWD, in(f->from, "etc/empty"), old, 0), 0);
    assert_int_equal(utimensat(AT_FDCWD, in(f->from, "etc"), old, 0), 0);
    assert_int_equal(chmod(f->from, 0711), 0);

    transfer(f, 0);
    compare_trees(f);
}

static void owners_devices_and_attributes_arrive(void **state)
{
    struct fixture *f = *state;
    /* vfs_cap_data revision 2: cap_net_raw, permitted and effective. */
    static const uint8_t capability[20] = {1, 0, 0, 2, 0, 0x20};

    if (geteuid() != 0) {
        print_message("needs root\n");
        skip();
    }
    make_dir(f, "opaque");
    write_text(f, "ping", "program");
    write_text(f, "sudo", "program");
    assert_int_equal(mknod(in(f->from, "whiteout"), S_IFCHR, makedev(0, 0)), 0);
    assert_int_equal(mknod(in(f->from, "null"), S_IFCHR | 0666, makedev(1, 3)), 0);
    assert_int_equal(mknod(in(f->from, "disk"), S_IFBLK | 0660, makedev(259, 1048575)), 0);
    assert_int_equal(chown(in(f->from, "sudo"), 4000000000u, 3000000000u), 0);
    assert_int_equal(chmod(in(f->from, "sudo"), 06755), 0);
    assert_int_equal(chown(in(f->from, "opaque"), 1000, 100), 0);
    assert_int_equal(chmod(in(f->from, "opaque"), 03770), 0);
    assert_int_equal(lchown(in(f->from, "whiteout"), 5, 6), 0);
    assert_int_equal(setxattr(in(f->from, "opaque"), "trusted.overlay.opaque", "y", 1, 0), 0);
    assert_int_equal(
        setxattr(in(f->from, "ping"), "security.capability", capability, sizeof(capability), 0), 0);
    assert_int_equal(setxattr(in(f->from, "ping"), "user.b=i\xff n", "\0=\n\xff", 4, 0), 0);
    assert_int_equal(setxattr(in(f->from, "ping"), "user.empty", "", 0, 0), 0);
    assert_int_equal(setxattr(f->from, "user.root", "of the tree", 11, 0), 0);

    transfer(f, 0);
    compare_trees(f);
}

static void notes_on_the_source_file_system_stay_behind(void **state)
{
    struct fixture *f = *state;

    if (geteuid() != 0)
        skip();
    write_text(f, "copied-up", "x");
    assert_int_equal(setxattr(in(f->from, "copied-up"), "trusted.overlay.origin", "h", 1, 0), 0);
    assert_int_equal(setxattr(in(f->from, "copied-up"), "trusted.elsewhere", "h", 1, 0), 0);
    transfer(f, 0);
    assert_int_equal(llistxattr(in(f->to, "copied-up"), NULL, 0), 0);
}

static void holes_stay_holes(void **state)
{
    struct fixture *f = *state;
    const off_t size = (off_t)3 << 30;
    struct stat st;
    char text[8] = "";

    fm_autoclose int fd = open(in(f->from, "sparse"), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_int_equal(ftruncate(fd, size), 0);
    assert_int_equal(pwrite(fd, "middle", 6, size / 2), 6);
    assert_int_equal(pwrite(fd, "end", 3, size - 3), 3);
    fm_autoclose int empty = open(in(f->from, "hole"), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_int_equal(ftruncate(empty, 1234567), 0);
    fm_autoclose int tail = open(in(f->from, "tail"), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_int_equal(pwrite(tail, "start", 5, 0), 5);
    assert_int_equal(ftruncate(tail, 1 << 20), 0);

    transfer(f, 0);
    assert_true(f->sent.bytes < 1 << 20);
    assert_int_equal(stat(in(f->to, "sparse"), &st), 0);
    assert_int_equal(st.st_size, size);
    assert_true(st.st_blocks * 512 < 1 << 20);
    fm_autoclose int copy = open(in(f->to, "sparse"), O_RDONLY | O_CLOEXEC);
    assert_int_equal(pread(copy, text, 6, size / 2), 6);
    assert_string_equal(text, "middle");
    assert_int_equal(pread(copy, text, 7, size - 3), 3);
    assert_memory_equal(text, "end", 3);
    compare_entry(in(f->from, "hole"), in(f->to, "hole"));
    compare_entry(in(f->from, "tail"), in(f->to, "tail"));
}

static void large_and_many_files_arrive(void **state)
{
    struct fixture *f = *state;
    size_t len = (5u << 20) + 12345;

    fm_autofree uint32_t *data = fm_xmalloc(len);
    for (size_t i = 0; i < len / sizeof(*data); i++)
        data[i] = (uint32_t)i * 2654435761u;
    write_file(in(f->from, "large"), data, len);
    for (int i = 0; i < 100; i++) {
        char name[200];
        snprintf(name, sizeof(name), "%0*d", i * 2 + 1, i);
        write_file(in(f->from, name), data, (size_t)i * 21);
    }
    transfer(f, 0);
    compare_trees(f);
}

static void deep_trees_cost_no_descriptors(void **state)
{
    struct fixture *f = *state;
    struct rlimit before;
    char path[4096] = "";
    size_t n = 0;

    while (n < 400) {
        n += (size_t)snprintf(path + n, sizeof(path) - n, "%sd", n ? "/" : "");
        make_dir(f, path);
    }
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    struct rlimit few = {64, before.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
    transfer(f, 0);
    uint64_t since = now_for_next_pass(f);
    write_text(f, "d/file", "x");
    assert_int_equal(fm_remove_tree(in(f->from, "d/d"), NULL), 0);
    transfer(f, since);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    compare_trees(f);
}

static void sockets_stay_behind(void **state)
{
    struct fixture *f = *state;
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    fm_autoclose int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    snprintf(address.sun_path, sizeof(address.sun_path), "%s/socket", f->from);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    write_text(f, "file", "x");
    transfer(f, 0);
    assert_false(exists(in(f->to, "socket")));
    transfer(f, now_for_next_pass(f));
    assert_true(exists(in(f->to, "file")));
}

static void mounts_stay_out(void **state)
{
    struct fixture *f = *state;
    struct stat st;

    make_dir(f, "mnt");
    write_text(f, "file", "what it is mounted on");
    write_text(f, "other", "not this tree's");
    if (geteuid() != 0 || unshare(CLONE_NEWNS) < 0 ||
        mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0) {
        print_message("needs a mount namespace\n");
        skip();
    }
    assert_int_equal(mount("tmpfs", in(f->from, "mnt"), "tmpfs", 0, NULL), 0);
    assert_int_equal(mount(in(f->from, "other"), in(f->from, "file"), NULL, MS_BIND, NULL), 0);
    write_text(f, "mnt/inside", "not this tree's either");
    transfer(f, 0);
    transfer(f, fm_realtime_us());
    assert_true(exists(in(f->to, "mnt")));
    assert_false(exists(in(f->to, "mnt/inside")));
    assert_int_equal(stat(in(f->to, "file"), &st), 0);
    assert_int_equal(st.st_size, 0);
    assert_int_equal(umount(in(f->from, "file")), 0);
    assert_int_equal(umount(in(f->from, "mnt")), 0);
}

/* --- passes over a tree that changes
 * ----------------------------------------------------------------------- */

static void a_pass_brings_changes_and_deletions(void **state)
{
    struct fixture *f = *state;

    make_dir(f, "dir");
    make_dir(f, "dir/sub");
    make_dir(f, "becomes-file");
    make_dir(f, "goes");
    make_dir(f, "goes/deep");
    write_text(f, "dir/same", "same");
    write_text(f, "dir/edited", "before");
    write_text(f, "dir/sub/gone", "x");
    write_text(f, "becomes-file/x", "x");
    write_text(f, "becomes-dir", "x");
    write_text(f, "goes/deep/x", "x");
    write_text(f, "becomes-link", "x");
    transfer(f, 0);
    uint64_t all = f->sent.entries;
    uint64_t since = now_for_next_pass(f);

    write_text(f, "dir/edited", "after, and longer");
    assert_int_equal(unlink(in(f->from, "dir/sub/gone")), 0);
    assert_int_equal(fm_remove_tree(in(f->from, "becomes-file"), NULL), 0);
    write_text(f, "becomes-file", "a file now");
    assert_int_equal(unlink(in(f->from, "becomes-dir")), 0);
    make_dir(f, "becomes-dir");
    write_text(f, "becomes-dir/new", "new");
    assert_int_equal(fm_remove_tree(in(f->from, "goes"), NULL), 0);
    assert_int_equal(unlink(in(f->from, "becomes-link")), 0);
    assert_int_equal(symlink("dir", in(f->from, "becomes-link")), 0);

    transfer(f, since);
    compare_trees(f);
    assert_true(f->sent.entries < all);

    transfer(f, now_for_next_pass(f));
    assert_int_equal(f->sent.entries, 1); /* the root alone */
    compare_trees(f);
}

/* What a rename moves keeps its ctime; only the directories themselves show it. */
static void renamed_directories_take_their_content_along(void **state)
{
    struct fixture *f = *state;

    make_dir(f, "releases");
    make_dir(f, "releases/current");
    make_dir(f, "releases/next");
    write_text(f, "releases/current/app", "version 1");
    write_text(f, "releases/next/app", "version 2");
    make_dir(f, "apart");
    write_text(f, "apart/untouched", "untouched");
    transfer(f, 0);
    uint64_t since = now_for_next_pass(f);

    rename_in(f, "releases/current", "releases/old");
    rename_in(f, "releases/next", "releases/current");
    rename_in(f, "apart/untouched", "apart/renamed");
    transfer(f, since);
    compare_trees(f);
}

static void hard_links_survive_passes(void **state)
{
    struct fixture *f = *state;

    make_dir(f, "a");
    make_dir(f, "b");
    write_text(f, "a/one", "content");
    assert_int_equal(link(in(f->from, "a/one"), in(f->from, "b/two")), 0);
    write_text(f, "b/other", "x");
    transfer(f, 0);
    compare_trees(f);

    uint64_t since = now_for_next_pass(f);
    rename_in(f, "a", "c");
    transfer(f, since);
    compare_trees(f);

    since = now_for_next_pass(f);
    write_text(f, "b/two", "written through the second name");
    assert_int_equal(link(in(f->from, "b/other"), in(f->from, "b/other-too")), 0);
    transfer(f, since);
    compare_trees(f);
}

static void attributes_that_are_gone_are_removed(void **state)
{
    struct fixture *f = *state;

    make_dir(f, "dir");
    if (setxattr(in(f->from, "dir"), "user.old", "1", 1, 0) < 0)
        skip();
    transfer(f, 0);
    uint64_t since = now_for_next_pass(f);
    assert_int_equal(removexattr(in(f->from, "dir"), "user.old"), 0);
    assert_int_equal(chmod(in(f->from, "dir"), 0700), 0);
    transfer(f, since);
    compare_trees(f);
}

static void a_named_file_travels_though_it_looks_unchanged(void **state)
{
    struct fixture *f = *state;
    struct fm_strv always = {0};

    make_dir(f, "data");
    write_text(f, "data/db", "before");
    write_text(f, "data/log", "before");
    transfer(f, 0);
    uint64_t since = now_for_next_pass(f);
    write_file(in(f->to, "data/db"), "stale!", 6);
    fm_strv_add(&always, "data/db");
    struct fm_tree_selection selection = {
        .changed_after_us = since, .always = &always, .last = true};
    assert_int_equal(transfer_selected(f, &selection, 1 << 20), 0);
    fm_strv_free(&always);
    assert_int_equal(f->sent.entries, 3); /* the root, data, data/db */
    assert_true(same_content(in(f->from, "data/db"), in(f->to, "data/db")));
}

static void shared_writable_mappings_are_found(void **state)
{
    struct fixture *f = *state;
    struct fm_strv paths = {0};
    bool found = false;

    write_text(f, "mapped here", "0123456789");
    fm_autoclose int fd = open(in(f->from, "mapped here"), O_RDWR | O_CLOEXEC);
    void *shared = mmap(NULL, 10, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_true(shared != MAP_FAILED);
    assert_int_equal(fm_tree_mapped_files(getpid(), &paths, &f->send_error), 0);
    for (size_t i = 0; i < paths.count; i++) {
        assert_true(paths.items[i][0] != '/');
        found = found || fm_streq(paths.items[i], in(f->from, "mapped here") + 1);
    }
    munmap(shared, 10);
    fm_strv_free(&paths);
    assert_true(found);
    assert_true(fm_tree_mapped_files(0x7fffffff, &paths, &f->send_error) < 0);
}

/* --- a tree that changes during the pass
 * --------------------------------------------------------------------- */

static void *disturb(void *arg)
{
    const struct fixture *f = arg;
    char block[65536];

    memset(block, 'y', sizeof(block));
    for (unsigned i = 0; exists(in(f->dir, "disturb")); i++) {
        char name[32];
        snprintf(name, sizeof(name), "f%u", i % 20);
        int fd = open(in(f->from, name), O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
        if (ftruncate(fd, (off_t)((i * 7919) % 3000000)) == 0 && i % 3 == 0)
            (void)!pwrite(fd, block, sizeof(block), (off_t)((i * 104729) % 2000000));
        close(fd);
        if (i % 5 == 0)
            unlink(in(f->from, name));
        snprintf(name, sizeof(name), "d%u", i % 7);
        if (mkdir(in(f->from, name), 0755) < 0) {
            fm_remove_tree(in(f->from, name), NULL);
        } else {
            snprintf(name, sizeof(name), "d%u/link", i % 7);
            (void)!symlink("/etc", in(f->from, name));
        }
    }
    return NULL;
}

static void a_busy_tree_converges_once_it_is_still(void **state)
{
    struct fixture *f = *state;
    pthread_t thread;

    write_file(in(f->dir, "disturb"), "", 0);
    assert_int_equal(pthread_create(&thread, NULL, disturb, f), 0);
    uint64_t since = 0;
    for (int pass = 0; pass < 8; pass++) {
        uint64_t now = fm_realtime_us();
        transfer(f, since);
        since = now;
    }
    assert_int_equal(unlink(in(f->dir, "disturb")), 0);
    pthread_join(thread, NULL);
    struct fm_tree_selection last = {.changed_after_us = since, .last = true};
    assert_int_equal(transfer_selected(f, &last, UINT64_MAX / 2), 0);
    compare_trees(f);
}

/* --- hostile senders
 * --------------------------------------------------------------------------------------------- */

struct attack {
    struct {
        const char *path;
        mode_t type;
        const char *target;
    } entries[4];
};

static void entries_cannot_leave_the_directory(void **state)
{
    static const struct attack attacks[] = {
        {{{"../evil", AE_IFREG, NULL}}},
        {{{"a/../../evil", AE_IFREG, NULL}}},
        {{{"a/..", AE_IFDIR, NULL}}},
        {{{"/tmp/fm-evil", AE_IFREG, NULL}}},
        {{{"//tmp/fm-evil", AE_IFREG, NULL}}},
        {{{"a//b", AE_IFREG, NULL}}},
        {{{"out", AE_IFLNK, ".."}, {"out/evil", AE_IFREG, NULL}}},
        {{{"out", AE_IFLNK, "/tmp"}, {"out/fm-evil", AE_IFDIR, NULL}}},
        {{{"d", AE_IFDIR, NULL}, {"d/out", AE_IFLNK, "../.."}, {"d/out/evil", AE_IFREG, NULL}}},
        {{{"out", AE_IFLNK, ".."}, {"mine", AE_IFREG, "out/secret"}}},
        {{{"out", AE_IFLNK, ".."}, {"out/beside/evil", AE_IFREG, NULL}}},
        {{{"out", AE_IFLNK, ".."}, {"mine", AE_IFREG, "out/beside/secret"}}},
        {{{"mine", AE_IFREG, "../secret"}}},
        {{{"mine", AE_IFREG, "/etc/passwd"}}},
        {{{"out", AE_IFLNK, ".."}, {"out/secret", AE_IFIFO, NULL}}},
        {{{".", AE_IFLNK, "/tmp"}}},
        {{{".", AE_IFREG, NULL}}},
        {{{"missing/parent", AE_IFREG, NULL}}},
    };
    struct fixture *f = *state;

    write_file(in(f->dir, "secret"), "secret", 6);
    assert_int_equal(mkdir(in(f->dir, "beside"), 0755), 0);
    write_file(in(f->dir, "beside/secret"), "secret", 6);
    for (size_t i = 0; i < FM_COUNT(attacks); i++) {
        struct receive_job job = {.f = f, .max_bytes = 1 << 20};
        struct hostile h = {0};
        pthread_t thread;
        assert_int_equal(pthread_create(&thread, NULL, receive, &job), 0);
        hostile_begin(&h, f->pair.a, "", 0);
        for (size_t k = 0; attacks[i].entries[k].path; k++)
            hostile_add(&h, attacks[i].entries[k].path, attacks[i].entries[k].type,
                        attacks[i].entries[k].target);
        hostile_end(&h);
        pthread_join(thread, NULL);
        if (job.rc != -FM_E_PROTOCOL)
            fail_msg("attack %zu: %d %s", i, job.rc, f->receive_error.text);
        /* The connection has survived and brings the reason. */
        json_auto_t *answer = fm_connection_expect(f->pair.a, FM_FRAME_TREE_DONE, &f->send_error);
        assert_null(answer);
        assert_int_equal(f->send_error.code, FM_E_PROTOCOL);
    }
    assert_false(exists(in(f->dir, "evil")));
    assert_false(exists(in(f->dir, "beside/evil")));
    assert_false(exists("/tmp/fm-evil"));
    struct stat st;
    assert_int_equal(stat(in(f->dir, "beside/secret"), &st), 0);
    assert_int_equal(st.st_nlink, 1);
    assert_int_equal(stat(in(f->dir, "secret"), &st), 0);
    assert_true(S_ISREG(st.st_mode) && st.st_nlink == 1 && st.st_size == 6);
}

/* A link in the way of a file is replaced, not written through. */
static void links_in_the_way_are_replaced(void **state)
{
    struct fixture *f = *state;
    struct stat st;

    write_file(in(f->dir, "secret"), "secret", 6);
    assert_int_equal(symlink("../secret", in(f->to, "file")), 0);
    assert_int_equal(symlink("..", in(f->to, "dir")), 0);
    write_text(f, "file", "the file's own");
    make_dir(f, "dir");
    write_text(f, "dir/inner", "x");
    transfer(f, 0);
    compare_trees(f);
    assert_int_equal(stat(in(f->dir, "secret"), &st), 0);
    assert_int_equal(st.st_size, 6);
    assert_false(exists(in(f->dir, "inner")));
}

static void what_was_listed_must_come(void **state)
{
    static const char list[] = ".\0promised";
    struct fixture *f = *state;
    struct receive_job job = {.f = f, .max_bytes = 1 << 20};
    struct hostile h = {0};
    pthread_t thread;

    assert_int_equal(pthread_create(&thread, NULL, receive, &job), 0);
    hostile_begin(&h, f->pair.a, list, sizeof(list));
    hostile_add(&h, ".", AE_IFDIR, NULL);
    hostile_end(&h);
    pthread_join(thread, NULL);
    assert_int_equal(job.rc, -FM_E_PROTOCOL);
    assert_non_null(strstr(f->receive_error.text, "'promised' was announced and did not come"));
}

static void more_than_was_reserved_is_refused(void **state)
{
    struct fixture *f = *state;
    struct stat st;
    size_t len = 4u << 20;

    fm_autofree char *data = fm_xcalloc(1, len);
    memset(data, 'x', len);
    write_file(in(f->from, "large"), data, len);
    struct fm_tree_selection all = {0};
    assert_int_equal(transfer_selected(f, &all, 2u << 20), -FM_E_NO_SPACE);
    assert_true(stat(in(f->to, "large"), &st) < 0 || st.st_size <= 2 << 20);
    json_auto_t *answer = fm_connection_expect(f->pair.a, FM_FRAME_TREE_DONE, &f->send_error);
    assert_null(answer);
    assert_int_equal(f->send_error.code, FM_E_NO_SPACE);
}

static void junk_is_refused(void **state)
{
    struct fixture *f = *state;
    struct receive_job job = {.f = f, .max_bytes = 1 << 20};
    struct fm_stream stream;
    char junk[4096];
    pthread_t thread;

    memset(junk, 'j', sizeof(junk));
    assert_int_equal(pthread_create(&thread, NULL, receive, &job), 0);
    for (int i = 0; i < 3; i++) {
        fm_stream_init(&stream, f->pair.a);
        if (i == 1)
            fm_stream_send(&stream, junk, sizeof(junk), NULL);
        fm_stream_send_end(&stream, NULL);
        fm_stream_clear(&stream);
    }
    pthread_join(thread, NULL);
    assert_int_equal(job.rc, -FM_E_PROTOCOL);
    assert_non_null(strstr(f->receive_error.text, "damaged archive"));
}

static void a_wrong_digest_is_a_checksum_mismatch(void **state)
{
    struct fixture *f = *state;
    struct receive_job job = {.f = f, .max_bytes = 1 << 20};
    pthread_t thread;

    json_auto_t *end =
        json_pack("{s:i,s:s}", "bytes", 0, "digest", "00000000000000000000000000000000");
    assert_int_equal(pthread_create(&thread, NULL, receive, &job), 0);
    fm_connection_send_json(f->pair.a, FM_FRAME_DATA_END, end, NULL);
    pthread_join(thread, NULL);
    assert_int_equal(job.rc, -FM_E_CHECKSUM);
}

static void a_senders_reason_is_passed_on(void **state)
{
    static const struct {
        const char *code;
        enum fm_code expected;
    } reasons[] = {{"NO_SPACE", FM_E_NO_SPACE}, {"OK", FM_E_FAILED}, {"nonsense", FM_E_FAILED}};
    struct fixture *f = *state;

    for (size_t i = 0; i < FM_COUNT(reasons); i++) {
        struct receive_job job = {.f = f, .max_bytes = 1 << 20};
        pthread_t thread;
        json_auto_t *reason = json_pack("{s:s,s:s}", "code", reasons[i].code, "message", "because");
        assert_int_equal(pthread_create(&thread, NULL, receive, &job), 0);
        fm_connection_send_json(f->pair.a, FM_FRAME_ERROR, reason, NULL);
        pthread_join(thread, NULL);
        assert_int_equal(job.rc, -(int)reasons[i].expected);
        assert_non_null(strstr(f->receive_error.text, "because"));
    }
}

static void a_sender_that_dies_is_noticed(void **state)
{
    struct fixture *f = *state;
    struct receive_job job = {.f = f, .max_bytes = 1 << 20};
    struct fm_stream stream;
    pthread_t thread;

    assert_int_equal(pthread_create(&thread, NULL, receive, &job), 0);
    fm_stream_init(&stream, f->pair.a);
    fm_stream_send(&stream, ".\0half", 6, NULL);
    fm_stream_clear(&stream);
    fm_connection_close(f->pair.a);
    f->pair.a = NULL;
    pthread_join(thread, NULL);
    assert_int_equal(job.rc, -FM_E_CLOSED);
}

static void paths_are_checked(void **state)
{
    static const char *const good[] = {"a",  "a/b", "./a",   "a/",     ".",
                                       "./", "...", "a/..b", ".hidden"};
    static const char *const bad[] = {"",     "/",     "/a",   "..",    "../a", "a/..", "a/../b",
                                      "a//b", "a/./b", "./..", "././a", "//",   ".//a"};

    (void)state;
    for (size_t i = 0; i < FM_COUNT(good); i++) {
        fm_autofree char *copy = fm_xstrdup(good[i]);
        if (!fm_tree_check_path(copy))
            fail_msg("'%s' was refused", good[i]);
    }
    for (size_t i = 0; i < FM_COUNT(bad); i++) {
        fm_autofree char *copy = fm_xstrdup(bad[i]);
        if (fm_tree_check_path(copy))
            fail_msg("'%s' was accepted", bad[i]);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(every_kind_of_file_arrives),
        TEST(owners_devices_and_attributes_arrive),
        TEST(notes_on_the_source_file_system_stay_behind),
        TEST(holes_stay_holes),
        TEST(large_and_many_files_arrive),
        TEST(deep_trees_cost_no_descriptors),
        TEST(sockets_stay_behind),
        TEST(mounts_stay_out),
        TEST(a_pass_brings_changes_and_deletions),
        TEST(renamed_directories_take_their_content_along),
        TEST(hard_links_survive_passes),
        TEST(attributes_that_are_gone_are_removed),
        TEST(a_named_file_travels_though_it_looks_unchanged),
        TEST(shared_writable_mappings_are_found),
        TEST(a_busy_tree_converges_once_it_is_still),
        TEST(entries_cannot_leave_the_directory),
        TEST(links_in_the_way_are_replaced),
        TEST(what_was_listed_must_come),
        TEST(more_than_was_reserved_is_refused),
        TEST(junk_is_refused),
        TEST(a_wrong_digest_is_a_checksum_mismatch),
        TEST(a_senders_reason_is_passed_on),
        TEST(a_sender_that_dies_is_noticed),
        TEST(paths_are_checked),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
