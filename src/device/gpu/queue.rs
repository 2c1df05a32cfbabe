//! Submitting, waiting and reading back, without executors.

use super::{GpuDevice, Trouble, lock};
use crate::device::DeviceError;

impl GpuDevice {
    /// Submits what `encode` encodes.
    pub(super) fn submit(&self, encode: impl FnOnce(&mut wgpu::CommandEncoder)) -> wgpu::SubmissionIndex {
        let mut encoder = self.device.create_command_encoder(&Default::default());
        encode(&mut encoder);
        self.queue.submit([encoder.finish()])
    }

    /// Waits for a submission, or for all, and fails if the driver has reported trouble meanwhile.
    pub(super) fn wait(
        &self,
        submission_index: Option<wgpu::SubmissionIndex>,
        during: &str,
    ) -> Result<(), DeviceError> {
        let poll = wgpu::PollType::Wait { submission_index, timeout: None };
        let waited = self.device.poll(poll);
        // A lost device has said so by its callback, and in words that say more than those of the wait.
        self.check(during)?;
        waited.map(|_| ()).map_err(|error| self.failed(during, error.to_string()))
    }

    pub(super) fn failed(&self, during: &str, message: String) -> DeviceError {
        DeviceError::Failed { adapter: self.name.clone(), during: during.to_owned(), message }
    }

    /// The error of a device that is gone. It fails in many ways, and may say that it is gone only when it is polled:
    /// so whoever sees another error asks this first.
    pub(super) fn lost(&self, during: &str) -> Option<DeviceError> {
        let _ = self.device.poll(wgpu::PollType::Poll);
        let message = lock(&self.trouble).lost.clone()?;
        Some(DeviceError::Lost { adapter: self.name.clone(), during: during.to_owned(), message })
    }

    /// An error in the driver's words, unless the device is gone.
    pub(super) fn trouble(&self, during: &str, message: String) -> DeviceError {
        self.lost(during).unwrap_or_else(|| self.failed(during, message))
    }

    /// Waits for what is queued and gives the contents of a buffer that can be mapped.
    pub(super) async fn read_back(&self, buffer: &wgpu::Buffer) -> Result<wgpu::BufferView, DeviceError> {
        const DURING: &str = " while reading a result back";
        let (sender, mapped) = futures_channel::oneshot::channel();
        buffer.map_async(wgpu::MapMode::Read, .., move |result| {
            // The receiver is dropped only if this future is, and then nobody wants the result.
            let _ = sender.send(result);
        });
        self.wait(None, DURING)?;
        match mapped.await {
            Ok(Ok(())) => {}
            outcome => return Err(self.trouble(DURING, format!("{outcome:?}"))),
        }
        buffer.get_mapped_range(..).map_err(|error| self.trouble(DURING, error.to_string()))
    }

    /// Fails if the driver has reported trouble; `during` says what ran, such as "" or " while ...".
    pub(super) fn check(&self, during: &str) -> Result<(), DeviceError> {
        let Trouble { lost, failed } = {
            let mut trouble = lock(&self.trouble);
            Trouble { lost: trouble.lost.clone(), failed: trouble.failed.take() }
        };
        match (lost, failed) {
            (None, None) => Ok(()),
            (None, Some(message)) => Err(self.trouble(during, message)),
            (Some(message), _) => {
                Err(DeviceError::Lost { adapter: self.name.clone(), during: during.to_owned(), message })
            }
        }
    }
}
