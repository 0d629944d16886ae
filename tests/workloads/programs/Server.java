// See README.md. A thread for each connection, and four that replace what is on the heap.
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.OutputStream;
import java.net.InetSocketAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.atomic.AtomicReferenceArray;
import java.util.zip.CRC32;

public class Server {
    static final int COUNT = 512;
    static final int BYTES = 32 * 1024;
    static final AtomicReferenceArray<Entry> heap = new AtomicReferenceArray<>(COUNT);
    static final AtomicLong replaced = new AtomicLong();
    static volatile String failure;

    static final class Entry {
        final long number;
        final byte[] data = new byte[BYTES];
        final long sum;

        Entry(long number) {
            this.number = number;
            for (int i = 0; i < BYTES; i++)
                data[i] = (byte) (number * 31 + i * (number | 1));
            sum = crc(data);
        }

        void verify() {
            if (crc(data) != sum)
                failure = "buffer " + number + " differs";
        }
    }

    static long crc(byte[] data) {
        CRC32 crc = new CRC32();
        crc.update(data);
        return crc.getValue();
    }

    static void replaceForEver() {
        try {
            while (true) {
                long number = replaced.getAndIncrement();
                int index = (int) (number % COUNT);
                heap.get(index).verify();
                heap.set(index, new Entry(COUNT + number));
                Thread.sleep(4);
            }
        } catch (InterruptedException e) {
            failure = "a thread was interrupted";
        }
    }

    static String check() {
        for (int i = 0; i < COUNT; i++)
            heap.get(i).verify();
        return failure != null ? "FAIL " + failure : "ok " + replaced.get() + " replaced";
    }

    static void serve(Socket socket) {
        long state = 0;
        try (BufferedReader in = new BufferedReader(new InputStreamReader(socket.getInputStream()));
             OutputStream out = socket.getOutputStream()) {
            socket.setTcpNoDelay(true);
            for (String line = in.readLine(); line != null; line = in.readLine()) {
                String answer;
                if (line.equals("check")) {
                    answer = check();
                } else {
                    state = (state * 69069 + Long.parseLong(line)) % (1L << 31);
                    answer = Long.toString(state);
                }
                out.write((answer + "\n").getBytes());
            }
        } catch (IOException e) {
            System.err.println(e);
        }
    }

    public static void main(String[] arguments) throws IOException {
        for (int i = 0; i < COUNT; i++)
            heap.set(i, new Entry(i));
        for (int i = 0; i < 4; i++)
            new Thread(Server::replaceForEver).start();
        try (ServerSocket listener = new ServerSocket()) {
            listener.bind(new InetSocketAddress("0.0.0.0", 7000), 128);
            System.out.println("ready");
            while (true) {
                Socket socket = listener.accept();
                new Thread(() -> serve(socket)).start();
            }
        }
    }
}
