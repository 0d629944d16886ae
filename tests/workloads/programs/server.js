// See README.md. The heap: buffers and objects that a timer replaces, so that the garbage collector moves them.
'use strict';
const net = require('net');
const crypto = require('crypto');

const COUNT = 256;
const BYTES = 64 * 1024;
let failure = null;
let replaced = 0;

const digest = (buffer) => crypto.createHash('sha1').update(buffer).digest('hex');

function fresh(number) {
    const buffer = Buffer.alloc(BYTES, crypto.createHash('sha1').update(String(number)).digest());
    return { number, buffer, digest: digest(buffer), list: Array.from({ length: 64 }, (_, i) => ({ i, number })) };
}

const heap = Array.from({ length: COUNT }, (_, i) => fresh(i));

function verify(entry) {
    if (digest(entry.buffer) !== entry.digest || entry.list.some((o, i) => o.i !== i || o.number !== entry.number))
        failure = failure || `buffer ${entry.number} differs`;
}

setInterval(() => {
    const index = replaced % COUNT;
    verify(heap[index]);
    heap[index] = fresh(COUNT + replaced);
    replaced++;
}, 5);

function answer(line, connection) {
    if (line === 'check') {
        heap.forEach(verify);
        return failure ? `FAIL ${failure}` : `ok ${replaced} replaced`;
    }
    connection.state = (connection.state * 69069 + Number(line)) % 2147483648;
    return String(connection.state);
}

net.createServer((socket) => {
    const connection = { state: 0 };
    let rest = '';
    socket.setNoDelay(true);
    socket.on('error', () => socket.destroy());
    socket.on('data', (data) => {
        const lines = (rest + data).split('\n');
        rest = lines.pop();
        for (const line of lines)
            socket.write(answer(line, connection) + '\n');
    });
}).listen(7000, '0.0.0.0', () => console.log('ready'));
