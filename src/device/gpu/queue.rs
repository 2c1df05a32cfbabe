//! Submitting, waiting and reading back, without executors.

use super::{GpuDevice, lock};
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

    /// Why the memory of a buffer is not there: mostly because the device is not, which it may say only when polled.
    pub(super) fn unmapped(&self, during: &str, message: String) -> DeviceError {
        let _ = self.device.poll(wgpu::PollType::Poll);
        self.check(during).err().unwrap_or_else(|| self.failed(during, message))
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
            outcome => return Err(self.unmapped(DURING, format!("{outcome:?}"))),
        }
        buffer.get_mapped_range(..).map_err(|error| self.unmapped(DURING, error.to_string()))
    }

    /// Fails if the driver has reported trouble; `during` says what ran, such as "" or " while ...".
    pub(super) fn check(&self, during: &str) -> Result<(), DeviceError> {
        if lock(&self.trouble).failed.is_some() {
            // A device that is gone fails in many ways, and may say that it is gone only when it is polled.
            let _ = self.device.poll(wgpu::PollType::Poll);
        }
        let mut trouble = lock(&self.trouble);
        let (adapter, during) = (self.name.clone(), during.to_owned());
        if let Some(message) = trouble.lost.clone() {
            return Err(DeviceError::Lost { adapter, during, message });
        }
        match trouble.failed.take() {
            Some(message) => Err(DeviceError::Failed { adapter, during, message }),
            None => Ok(()),
        }
    }
}
