//! A proxy that can stop forwarding: connections that are dead and do not say so.
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Forwards to a server on this machine.
#[derive(Debug)]
pub struct Proxy {
    pub address: SocketAddr,
    /// Connections older than this number are dead.
    stalled: watch::Sender<u64>,
    opened: watch::Receiver<u64>,
    task: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    pub async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stalled = watch::channel(0).0;
        let (count, opened) = watch::channel(0);
        let stalls = stalled.subscribe();
        let task = tokio::spawn(async move {
            let mut number = 0;
            while let Ok((client, _)) = listener.accept().await {
                number += 1;
                count.send_replace(number);
                tokio::spawn(forward(client, port, number, stalls.clone()));
            }
        });
        Self { address, stalled, opened, task }
    }

    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// What is connected now is dead from here on, without a sign; what connects later is not.
    pub fn stall(&self) {
        let opened = *self.opened.borrow();
        self.stalled.send_replace(opened);
    }
}

async fn forward(client: TcpStream, port: u16, number: u64, mut stalls: watch::Receiver<u64>) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else { return };
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let pass = async |from: &mut tokio::net::tcp::OwnedReadHalf, to: &mut tokio::net::tcp::OwnedWriteHalf| {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(read) = from.read(&mut buffer).await
            && read > 0
            && to.write_all(&buffer[..read]).await.is_ok()
        {}
    };
    tokio::select! {
        () = pass(&mut from_client, &mut to_server) => {}
        () = pass(&mut from_server, &mut to_client) => {}
        () = async { drop(stalls.wait_for(|stalled| *stalled >= number).await) } => {
            // Open, and silent, until the client gives it up.
            let mut buffer = vec![0; 64 << 10];
            while from_client.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
        }
    }
}
