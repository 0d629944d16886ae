/* Every key of the configuration with its kind, default and limits; the one list that config.c is
 * made from. */
#ifndef FM_DAEMON_CONFIG_KEYS_H
#define FM_DAEMON_CONFIG_KEYS_H

/* T(section, key, default): text. N(section, key, default, least, greatest): whole number.
 * L(section, key): list of texts. */
#define FM_CONFIG_KEYS_ROOT(T, N, L)                                                               \
    T(config, host, "")                                                                            \
    T(config, advertise, "")                                                                       \
    T(config, state_dir, "/var/lib/fleximigrate")                                                  \
    T(config, run_dir, "/run/fleximigrate")
#define FM_CONFIG_KEYS_LISTEN(T, N, L)                                                             \
    T(listen, api_address, "")                                                                     \
    N(listen, api_port, 7440, 0, 65535)                                                            \
    T(listen, wire_address, "")                                                                    \
    N(listen, wire_port, 7441, 1, 65535)
#define FM_CONFIG_KEYS_PKI(T, N, L)                                                                \
    T(pki, ca, "/etc/fleximigrate/pki/ca.pem")                                                     \
    T(pki, cert, "/etc/fleximigrate/pki/node.pem")                                                 \
    T(pki, key, "/etc/fleximigrate/pki/node.key")
#define FM_CONFIG_KEYS_LOG(T, N, L)                                                                \
    T(log, level, "info")                                                                          \
    T(log, format, "text")                                                                         \
    T(log, file, "")
#define FM_CONFIG_KEYS_LIMITS(T, N, L)                                                             \
    N(limits, max_concurrent, 3, 1, 64)                                                            \
    T(limits, memory_reserve, "256MiB")
#define FM_CONFIG_KEYS_CONTAINER(T, N, L)                                                          \
    T(container, runc, "runc")                                                                     \
    T(container, runc_root, "/run/runc")                                                           \
    T(container, cgroup_parent, "/fleximigrate")                                                   \
    T(container, criu, "criu")                                                                     \
    T(container, interposer_dir, FM_LIBEXECDIR)                                                    \
    T(container, shim, FM_LIBEXECDIR "/fleximigrate-shim")                                         \
    T(container, pager, FM_LIBEXECDIR "/fleximigrate-pager")
#define FM_CONFIG_KEYS_NETWORK(T, N, L)                                                            \
    T(network, bridge, "fmbr0")                                                                    \
    T(network, vxlan, "fmvx0")                                                                     \
    N(network, vni, 7440, 1, 16777215)                                                             \
    N(network, port, 4789, 1, 65535)                                                               \
    T(network, subnet, "10.88.0.0/16")                                                             \
    T(network, gateway, "")                                                                        \
    N(network, mtu, 0, 0, 65535)                                                                   \
    N(network, relay_minutes, 60, 0, 10080)                                                        \
    T(network, followers, "/etc/fleximigrate/followers.yaml")                                      \
    L(network, peers)
#define FM_CONFIG_KEYS_API(T, N, L) L(api, uids)

/* The sections: key and list of keys. */
#define FM_CONFIG_SECTIONS(X)                                                                      \
    X(listen, FM_CONFIG_KEYS_LISTEN)                                                               \
    X(pki, FM_CONFIG_KEYS_PKI)                                                                     \
    X(log, FM_CONFIG_KEYS_LOG)                                                                     \
    X(limits, FM_CONFIG_KEYS_LIMITS)                                                               \
    X(container, FM_CONFIG_KEYS_CONTAINER)                                                         \
    X(network, FM_CONFIG_KEYS_NETWORK)                                                             \
    X(api, FM_CONFIG_KEYS_API)

#endif
