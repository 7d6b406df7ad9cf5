//! What calls fail with.

/// What a call to the virtual GPU can fail with; the variants are those of a driver's error codes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// An argument is wrong (CUDA_ERROR_INVALID_VALUE); says which.
    InvalidValue(String),
    /// Device memory is exhausted (CUDA_ERROR_OUT_OF_MEMORY).
    OutOfMemory,
    /// More threads, registers or shared memory than the device has (CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES).
    OutOfResources(String),
    /// The cluster does not fit (CUDA_ERROR_INVALID_CLUSTER_SIZE).
    InvalidCluster(String),
    /// A cooperative launch with more CTAs than fit at once (CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE).
    CooperativeTooLarge(String),
    /// A kernel accessed memory outside its bounds (CUDA_ERROR_ILLEGAL_ADDRESS).
    IllegalAddress,
    /// A kernel's access was not aligned (CUDA_ERROR_MISALIGNED_ADDRESS).
    MisalignedAddress,
    /// A kernel executed an instruction with illegal operands (CUDA_ERROR_ILLEGAL_INSTRUCTION).
    IllegalInstruction,
    /// A kernel trapped (CUDA_ERROR_LAUNCH_FAILED).
    LaunchFailed,
    /// An `assert` in a kernel failed (CUDA_ERROR_ASSERT).
    Assert,
    /// A kernel cannot come to an end: deadlock or the instruction limit (CUDA_ERROR_LAUNCH_TIMEOUT).
    Timeout,
    /// PTX that cannot be compiled for this device: malformed, unknown to the virtual GPU, or for another
    /// architecture (CUDA_ERROR_INVALID_PTX).
    InvalidPtx(String),
    /// A fatbin without any code for this device (CUDA_ERROR_NO_BINARY_FOR_GPU).
    NoBinaryForGpu(String),
    /// A stream that is being captured cannot do this (CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED).
    CaptureUnsupported(String),
    /// A call during a capture was not permitted, so there is no graph
    /// (CUDA_ERROR_STREAM_CAPTURE_INVALIDATED).
    CaptureInvalidated(String),
    /// Two captures would become one (CUDA_ERROR_STREAM_CAPTURE_MERGE).
    CaptureMerge(String),
    /// The capture did not begin in this stream (CUDA_ERROR_STREAM_CAPTURE_UNMATCHED).
    CaptureUnmatched(String),
    /// A branch of a capture does not come before its end (CUDA_ERROR_STREAM_CAPTURE_UNJOINED).
    CaptureUnjoined(String),
    /// A capture would depend on work outside of it (CUDA_ERROR_STREAM_CAPTURE_ISOLATION).
    CaptureIsolation(String),
    /// The default stream would wait for a capture (CUDA_ERROR_STREAM_CAPTURE_IMPLICIT).
    CaptureImplicit(String),
    /// An event of a capture cannot be asked or waited for (CUDA_ERROR_CAPTURED_EVENT).
    CapturedEvent(String),
    /// The call does not fit what was done before (CUDA_ERROR_ILLEGAL_STATE).
    IllegalState(String),
    /// Not ready yet (CUDA_ERROR_NOT_READY).
    NotReady,
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::InvalidValue(m) => write!(f, "invalid value: {m}"),
            Error::OutOfMemory => write!(f, "out of memory"),
            Error::OutOfResources(m) => write!(f, "too many resources requested for launch: {m}"),
            Error::InvalidCluster(m) => write!(f, "invalid cluster size: {m}"),
            Error::CooperativeTooLarge(m) => write!(f, "cooperative launch too large: {m}"),
            Error::IllegalAddress => write!(f, "an illegal memory access was encountered"),
            Error::MisalignedAddress => write!(f, "misaligned address"),
            Error::IllegalInstruction => write!(f, "an illegal instruction was encountered"),
            Error::LaunchFailed => write!(f, "unspecified launch failure"),
            Error::Assert => write!(f, "device-side assert triggered"),
            Error::Timeout => write!(f, "the launch cannot end"),
            Error::InvalidPtx(m) => write!(f, "a PTX JIT compilation failed: {m}"),
            Error::NoBinaryForGpu(m) => {
                write!(f, "no kernel image is available for execution on the device: {m}")
            }
            Error::CaptureUnsupported(m) => {
                write!(f, "operation not permitted when stream is capturing: {m}")
            }
            Error::CaptureInvalidated(m) => {
                write!(f, "operation failed due to a previous error during capture: {m}")
            }
            Error::CaptureMerge(m) => {
                write!(f, "operation would result in a merge of separate capture sequences: {m}")
            }
            Error::CaptureUnmatched(m) => {
                write!(f, "capture was not ended in the same stream as it began: {m}")
            }
            Error::CaptureUnjoined(m) => write!(f, "capturing stream has unjoined work: {m}"),
            Error::CaptureIsolation(m) => {
                write!(f, "dependency created on uncaptured work in another stream: {m}")
            }
            Error::CaptureImplicit(m) => {
                write!(f, "operation would make the legacy stream depend on a capturing blocking stream: {m}")
            }
            Error::CapturedEvent(m) => {
                write!(f, "operation not permitted on an event last recorded in a capturing stream: {m}")
            }
            Error::IllegalState(m) => {
                write!(f, "the operation cannot be performed in the present state: {m}")
            }
            Error::NotReady => write!(f, "not ready"),
        }
    }
}

impl std::error::Error for Error {}

impl From<crate::LoadError> for Error {
    fn from(error: crate::LoadError) -> Self {
        Error::InvalidPtx(error.to_string())
    }
}
