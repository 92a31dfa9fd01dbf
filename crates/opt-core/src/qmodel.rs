//! x
/// x
pub struct QModel;
/// x
pub struct QNode;
/// x
pub struct QOp;
