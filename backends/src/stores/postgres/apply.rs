//! Guarded changes.

use super::link::{Link, Work};
use super::session::Session;
use crate::stores::batch::{Patch, clean, waves};
use openclaw_common::store::{ActionState, Change, State, StoreError};

/// [`openclaw_common::store::Store::apply`]
pub(super) async fn apply(link: &Link, changes: &[Change]) -> Result<Vec<bool>, StoreError> {
    let mut applied = vec![false; changes.len()];
    let waves = waves(changes);
    for place in link.run(&*waves, apply_waves).await? {
        if let Some(flag) = applied.get_mut(place) {
            *flag = true;
        }
    }
    Ok(applied)
}

fn apply_waves<'c>(mut connection: Session<'c>, waves: &'c [Vec<Patch<'_>>]) -> Work<'c, Vec<usize>> {
    Box::pin(async move {
        match waves {
            [] => Ok(Vec::new()),
            [wave] => apply_wave(connection, wave).await,
            waves => {
                let mut transaction = connection.begin().await?;
                let mut applied = Vec::new();
                for wave in waves {
                    applied.extend(apply_wave(transaction.session(), wave).await?);
                }
                transaction.commit().await?;
                Ok(applied)
            }
        }
    })
}

/// Applies one wave; the places of the changes that took effect.
async fn apply_wave(connection: Session<'_>, wave: &[Patch<'_>]) -> Result<Vec<usize>, sqlx::Error> {
    let planned: Vec<_> = numbered(wave, |patch| patch.new_actions.iter().enumerate());
    let outcomes: Vec<_> = numbered(wave, |patch| patch.outcomes.iter());
    let ords: Vec<i64> = sqlx::query_scalar(include_str!("apply.sql"))
        .bind(all(wave, |patch| patch.name.0.as_ref()))
        .bind(all(wave, |patch| patch.name.1.as_ref()))
        .bind(all(wave, |patch| patch.fence))
        .bind(all(wave, |patch| patch.from_received))
        .bind(all(wave, |patch| patch.from_planned))
        .bind(some(wave, |patch| patch.starts.then_some(true)))
        .bind(some(wave, |patch| patch.target.map(State::as_str)))
        .bind(some(wave, |patch| patch.plan))
        .bind(some(wave, |patch| patch.attempt))
        .bind(some(wave, |patch| patch.due_ms))
        .bind(some(wave, |patch| patch.hold))
        .bind(some(wave, |patch| patch.class))
        .bind(some(wave, |patch| patch.code))
        .bind(some(wave, |patch| patch.error.as_deref()))
        .bind(all(&planned, |(ord, _)| *ord))
        .bind(all(&planned, |(_, (index, _))| {
            i32::try_from(*index).unwrap_or(i32::MAX)
        }))
        .bind(all(&planned, |(_, (_, action))| action.kind))
        .bind(all(&planned, |(_, (_, action))| clean(&action.target)))
        .bind(all(&planned, |(_, (_, action))| action.uuid.as_str()))
        .bind(all(&planned, |(_, (_, action))| action.tried))
        .bind(all(&outcomes, |(ord, _)| *ord))
        .bind(all(&outcomes, |(_, outcome)| outcome.index))
        .bind(some(&outcomes, |(_, outcome)| outcome.state.map(ActionState::as_str)))
        .bind(some(&outcomes, |(_, outcome)| outcome.message_id.as_deref()))
        .bind(some(&outcomes, |(_, outcome)| outcome.code))
        .bind(all(&outcomes, |(_, outcome)| outcome.refused))
        .bind(all(&outcomes, |(_, outcome)| outcome.tries))
        .bind(some(&outcomes, |(_, outcome)| outcome.uuid))
        .bind(some(&outcomes, |(_, outcome)| outcome.sender))
        .fetch_all(connection)
        .await?;
    let place = |ord: i64| {
        usize::try_from(ord - 1)
            .ok()
            .and_then(|index| wave.get(index))
            .map(|patch| patch.place)
    };
    Ok(ords.into_iter().filter_map(place).collect())
}

/// A column.
fn all<'r, R, T>(rows: &'r [R], read: impl Fn(&'r R) -> T) -> Vec<T> {
    rows.iter().map(read).collect()
}

/// A column that most waves leave empty: `unnest` fills a short one up with NULL, so then it need not be sent.
fn some<'r, R, T>(rows: &'r [R], read: impl Fn(&'r R) -> Option<T>) -> Vec<Option<T>> {
    let last = rows.iter().rposition(|row| read(row).is_some());
    let filled = last.map_or(0, |last| last + 1);
    rows.iter().take(filled).map(read).collect()
}

/// The parts of every change, each with the ordinal (from 1) of its change.
fn numbered<'w, 'p, T, I: Iterator<Item = T>>(
    wave: &'w [Patch<'p>],
    parts: impl Fn(&'w Patch<'p>) -> I,
) -> Vec<(i64, T)> {
    (1..)
        .zip(wave)
        .flat_map(|(ord, patch)| parts(patch).map(move |part| (ord, part)))
        .collect()
}
