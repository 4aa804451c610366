//! [`Patient`]: a connection whose other end must take what it is sent within a limit, and is heard out at its end.
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

/// What still comes of a request that was answered before its end is read and thrown away. A connection that is closed
/// with bytes unread is reset, and an answer on its way is lost with it. So many bytes at most,
const LINGER_MAX_BYTES: u64 = 256 << 20;
/// for so long at most,
const LINGER_MAX: Duration = Duration::from_secs(30);
/// and so long at most while nothing comes.
const LINGER_PAUSE: Duration = Duration::from_secs(5);
/// Thrown away at once.
const WASTE_BYTES: usize = 16 << 10;

/// See the module.
pub struct Patient {
    stream: TcpStream,
    limit: Duration,
    /// Since nothing can be written; ends when the limit is reached.
    stuck: Option<Pin<Box<Sleep>>>,
    /// Whether the other end may still be sending what nobody will read.
    owing: Arc<AtomicBool>,
    /// From the end of what is sent to the end of what comes.
    lingering: Option<Lingering>,
}

struct Lingering {
    left: u64,
    until: Instant,
    /// Ends with the pause, or with all.
    pause: Pin<Box<Sleep>>,
}

impl Lingering {
    fn begin() -> Self {
        let now = Instant::now();
        let pause = Box::pin(tokio::time::sleep_until(now + LINGER_PAUSE));
        Self { left: LINGER_MAX_BYTES, until: now + LINGER_MAX, pause }
    }

    /// So many more bytes came: `false` if that is enough.
    fn goes_on(&mut self, bytes: usize) -> bool {
        let now = Instant::now();
        self.left = self.left.saturating_sub(bytes as u64);
        self.pause.as_mut().reset(self.until.min(now + LINGER_PAUSE));
        bytes > 0 && self.left > 0 && now < self.until
    }
}

impl Patient {
    /// Sends to whoever takes something within `limit`. `owing` is set by all that is read; who answers a request says
    /// in it whether some of that request was left unread.
    pub fn new(stream: TcpStream, limit: Duration, owing: Arc<AtomicBool>) -> Self {
        Self { stream, limit, stuck: None, owing, lingering: None }
    }

    fn judge<T>(&mut self, context: &mut Context<'_>, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            self.stuck = None;
            return poll;
        }
        let until = Instant::now() + self.limit;
        let stuck = self.stuck.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        match stuck.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let poll = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.owing.store(true, Relaxed);
        }
        poll
    }
}

impl AsyncWrite for Patient {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.judge(context, poll)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.judge(context, poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.stream).poll_flush(context);
        self.judge(context, poll)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let lingering = match &mut this.lingering {
            Some(lingering) => lingering,
            None => {
                ready!(Pin::new(&mut this.stream).poll_shutdown(context))?;
                if !this.owing.load(Relaxed) {
                    return Poll::Ready(Ok(()));
                }
                this.lingering.insert(Lingering::begin())
            }
        };
        let mut waste = [0; WASTE_BYTES];
        loop {
            let mut buffer = ReadBuf::new(&mut waste);
            match Pin::new(&mut this.stream).poll_read(context, &mut buffer) {
                Poll::Ready(Ok(())) if lingering.goes_on(buffer.filled().len()) => {}
                // It has ended, or was long enough.
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending => return lingering.pause.as_mut().poll(context).map(Ok),
            }
        }
    }
}
