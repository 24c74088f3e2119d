//! Sockets on their way to another process: a name and a descriptor at a time.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::io::retry_on_intr;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

/// Longest name, in bytes: a family, an address and a port fit many times.
const MAX_NAME: usize = 255;

/// A message: what it names, and the socket that comes with it.
#[derive(Debug)]
pub struct Message {
    pub name: String,
    pub socket: Option<OwnedFd>,
}

/// Sends one message: the length of the name, the name, and the descriptor beside the first byte (unix(7),
/// `SCM_RIGHTS`).
///
/// # Errors
/// Where the name is too long or the other side is gone.
pub fn send(stream: &mut UnixStream, name: &str, socket: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let frame = frame(name)?;
    let mut space = [MaybeUninit::<u8>::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let sockets: Vec<BorrowedFd<'_>> = socket.into_iter().collect();
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !sockets.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&sockets)) {
        return Err(io::Error::other("no room for a descriptor"));
    }
    let sent = retry_on_intr(|| {
        sendmsg(stream.as_fd(), &[IoSlice::new(&frame)], &mut control, SendFlags::NOSIGNAL)
    })?;
    // Where only a part was taken, the descriptor went with it.
    stream.write_all(frame.get(sent..).unwrap_or_default())
}

/// A message as it is sent: the length of the name, and the name.
///
/// # Errors
/// Where the name is too long.
pub fn frame(name: &str) -> io::Result<Vec<u8>> {
    let length = u8::try_from(name.len()).map_err(|_| io::Error::other("the name is too long"))?;
    Ok([&[length], name.as_bytes()].concat())
}

/// Receives one message.
///
/// # Errors
/// Where the other side is gone, or says something else.
pub fn receive(stream: &mut UnixStream) -> io::Result<Message> {
    let mut length = [0u8; 1];
    let mut space = [MaybeUninit::<u8>::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = retry_on_intr(|| {
        recvmsg(
            stream.as_fd(),
            &mut [IoSliceMut::new(&mut length)],
            &mut control,
            // What another program is started with must not hold our sockets open.
            RecvFlags::CMSG_CLOEXEC,
        )
    })?;
    if received.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut socket = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(sockets) = message {
            socket = sockets.last().or(socket);
        }
    }
    let [length] = length;
    let mut name = vec![0; usize::from(length).min(MAX_NAME)];
    stream.read_exact(&mut name)?;
    let name = String::from_utf8(name).map_err(|_| io::ErrorKind::InvalidData)?;
    Ok(Message { name, socket })
}

#[cfg(test)]
mod tests {
    use super::{receive, send};
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_socket_that_was_sent_is_the_same_socket() {
        let (mut here, mut there) = UnixStream::pair().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        send(&mut here, "one", Some(listener.as_fd())).unwrap();
        send(&mut here, "two", None).unwrap();
        send(&mut here, "three", Some(listener.as_fd())).unwrap();
        drop(listener);
        let first = receive(&mut there).unwrap();
        assert_eq!((first.name.as_str(), first.socket.is_some()), ("one", true));
        let second = receive(&mut there).unwrap();
        assert_eq!((second.name.as_str(), second.socket.is_some()), ("two", false));
        let third = receive(&mut there).unwrap();
        assert_eq!(third.name, "three");
        drop(first);
        let listener = TcpListener::from(third.socket.unwrap());
        assert_eq!(listener.local_addr().unwrap(), address);
        let mut client = TcpStream::connect(address).unwrap();
        let (mut accepted, _) = listener.accept().unwrap();
        client.write_all(b"x").unwrap();
        accepted.read_exact(&mut [0]).unwrap();
        drop(here);
        assert!(receive(&mut there).is_err(), "the other side is gone");
        assert!(send(&mut there, &"n".repeat(256), None).is_err());
    }
}
