//! Before the door of the orchestrator: who comes is sent to the process that has begun last, so that one can begin
//! while another still serves those whom it has.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use orchestrator::ingress::listener::{Listen, Peer};
use tokio::sync::mpsc;
use turmoil::net::{TcpListener, TcpStream};

use crate::caller;

type Comer = (TcpStream, SocketAddr);

/// Where those who come are sent on.
#[derive(Clone, Default)]
pub(super) struct Hall(Arc<Mutex<Option<mpsc::Sender<Comer>>>>);

/// The door of one process.
pub(super) struct Door(tokio::sync::Mutex<mpsc::Receiver<Comer>>);

impl Hall {
    /// A door of its own for one more process: whoever comes from now on comes to this one.
    pub(super) fn door(&self) -> Door {
        let (tx, rx) = mpsc::channel(64);
        *self.0.lock().unwrap() = Some(tx);
        Door(tokio::sync::Mutex::new(rx))
    }

    /// Sends those who come to the door that was opened last. Where nobody serves, their connection ends.
    pub(super) async fn receive(self) -> turmoil::Result {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, caller::PORT)).await?;
        loop {
            let comer = listener.accept().await?;
            if let Some(door) = &*self.0.lock().unwrap() {
                let _ = door.try_send(comer);
            }
        }
    }
}

impl Listen for Door {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<(TcpStream, Peer)> {
        match self.0.lock().await.recv().await {
            Some((stream, peer)) => Ok((stream, Peer::Address(peer))),
            None => std::future::pending().await,
        }
    }
}
