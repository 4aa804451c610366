import java.net.InetSocketAddress;
import java.net.URI;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.FSDataInputStream;
import org.apache.hadoop.fs.FSDataOutputStream;
import org.apache.hadoop.fs.FileStatus;
import org.apache.hadoop.fs.FileSystem;
import org.apache.hadoop.fs.Path;
import org.apache.hadoop.fs.permission.FsPermission;
import org.apache.hadoop.hive.conf.HiveConf;
import org.apache.hadoop.hive.metastore.HiveMetaStore;
import org.apache.hadoop.hive.metastore.IHMSHandler;
import org.apache.hadoop.hive.metastore.TUGIBasedProcessor;
import org.apache.hadoop.hive.metastore.txn.TxnDbUtil;
import org.apache.hadoop.hive.thrift.TUGIContainingTransport;
import org.apache.hadoop.util.Progressable;
import org.apache.thrift.protocol.TBinaryProtocol;
import org.apache.thrift.server.TThreadPoolServer;
import org.apache.thrift.transport.TServerSocket;

/** A metastore of Hive, as `HiveMetaStore` starts one, but for this machine alone: of itself it listens to everybody. */
public class Metastore {
    /** A bucket, as much of it as a metastore looks at, which makes folders and removes them. */
    public static class Bucket extends FileSystem {
        private URI uri;

        @Override public void initialize(URI name, Configuration conf) throws java.io.IOException {
            super.initialize(name, conf);
            uri = URI.create(name.getScheme() + "://" + name.getAuthority());
        }
        @Override public URI getUri() { return uri; }
        @Override public boolean mkdirs(Path path, FsPermission permission) { return true; }
        @Override public boolean delete(Path path, boolean recursive) { return true; }
        @Override public FileStatus getFileStatus(Path path) { return new FileStatus(0, true, 0, 0, 0, path); }
        @Override public FileStatus[] listStatus(Path path) { return new FileStatus[0]; }
        @Override public Path getWorkingDirectory() { return new Path(uri + "/"); }
        @Override public void setWorkingDirectory(Path path) { }
        @Override public boolean rename(Path from, Path to) { return false; }
        @Override public FSDataInputStream open(Path path, int buffer) { throw new UnsupportedOperationException(); }
        @Override public FSDataOutputStream append(Path path, int buffer, Progressable progress) {
            throw new UnsupportedOperationException();
        }
        @Override public FSDataOutputStream create(Path path, FsPermission permission, boolean overwrite, int buffer,
                short replication, long block, Progressable progress) {
            throw new UnsupportedOperationException();
        }
    }

    public static void main(String[] args) throws Exception {
        // Its settings are properties of the system.
        HiveConf conf = new HiveConf();
        conf.set("fs.s3.impl", Bucket.class.getName());
        conf.setClassLoader(Metastore.class.getClassLoader());
        HiveMetaStore.HMSHandler handler = new HiveMetaStore.HMSHandler("metastore", conf, false);
        IHMSHandler retrying = HiveMetaStore.newRetryingHMSHandler(handler, conf);
        // For the locks of those who commit.
        TxnDbUtil.prepDb(conf);
        InetSocketAddress here = new InetSocketAddress("127.0.0.1", Integer.parseInt(args[0]));
        new TThreadPoolServer(new TThreadPoolServer.Args(new TServerSocket(here))
            .processor(new TUGIBasedProcessor<>(retrying))
            .transportFactory(new TUGIContainingTransport.Factory())
            .protocolFactory(new TBinaryProtocol.Factory())).serve();
    }
}
