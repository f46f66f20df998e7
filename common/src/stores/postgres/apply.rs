//! Guarded changes.

use sqlx::{Connection, PgConnection};

use super::link::{Link, Work};
use crate::store::{ActionState, Change, State, StoreError};
use crate::stores::batch::{Patch, waves};

/// [`crate::store::Store::apply`]
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

fn apply_waves<'c>(connection: &'c mut PgConnection, waves: &'c [Vec<Patch<'_>>]) -> Work<'c, Vec<usize>> {
    Box::pin(async move {
        match waves {
            [] => Ok(Vec::new()),
            [wave] => apply_wave(connection, wave).await,
            waves => {
                let mut transaction = connection.begin().await?;
                let mut applied = Vec::new();
                for wave in waves {
                    applied.extend(apply_wave(&mut transaction, wave).await?);
                }
                transaction.commit().await?;
                Ok(applied)
            }
        }
    })
}

/// Applies one wave; the places of the changes that took effect.
async fn apply_wave(connection: &mut PgConnection, wave: &[Patch<'_>]) -> Result<Vec<usize>, sqlx::Error> {
    let planned: Vec<_> = numbered(wave, |patch| patch.new_actions.iter().enumerate());
    let outcomes: Vec<_> = numbered(wave, |patch| patch.outcomes.iter());
    let ords: Vec<i64> = sqlx::query_scalar(include_str!("apply.sql"))
        .bind(wave.iter().map(|patch| patch.name.0.as_ref()).collect::<Vec<&str>>())
        .bind(wave.iter().map(|patch| patch.name.1.as_ref()).collect::<Vec<&str>>())
        .bind(wave.iter().map(|patch| patch.fence).collect::<Vec<i64>>())
        .bind(wave.iter().map(|patch| patch.from_received).collect::<Vec<bool>>())
        .bind(wave.iter().map(|patch| patch.from_planned).collect::<Vec<bool>>())
        .bind(wave.iter().map(|patch| patch.starts).collect::<Vec<bool>>())
        .bind(
            wave.iter()
                .map(|patch| patch.target.map(State::as_str))
                .collect::<Vec<Option<&str>>>(),
        )
        .bind(wave.iter().map(|patch| patch.plan).collect::<Vec<Option<&[u8]>>>())
        .bind(wave.iter().map(|patch| patch.attempt).collect::<Vec<Option<i32>>>())
        .bind(wave.iter().map(|patch| patch.due_ms).collect::<Vec<Option<i64>>>())
        .bind(wave.iter().map(|patch| patch.hold).collect::<Vec<Option<bool>>>())
        .bind(wave.iter().map(|patch| patch.class).collect::<Vec<Option<&str>>>())
        .bind(wave.iter().map(|patch| patch.code).collect::<Vec<Option<i64>>>())
        .bind(
            wave.iter()
                .map(|patch| patch.error.as_deref())
                .collect::<Vec<Option<&str>>>(),
        )
        .bind(planned.iter().map(|(ord, _)| *ord).collect::<Vec<i64>>())
        .bind(
            planned
                .iter()
                .map(|(_, (index, _))| i32::try_from(*index).unwrap_or(i32::MAX))
                .collect::<Vec<i32>>(),
        )
        .bind(
            planned
                .iter()
                .map(|(_, (_, action))| action.kind)
                .collect::<Vec<&str>>(),
        )
        .bind(
            planned
                .iter()
                .map(|(_, (_, action))| crate::stores::batch::clean(&action.target))
                .collect::<Vec<_>>(),
        )
        .bind(
            planned
                .iter()
                .map(|(_, (_, action))| action.uuid.as_str())
                .collect::<Vec<&str>>(),
        )
        .bind(
            planned
                .iter()
                .map(|(_, (_, action))| action.tried)
                .collect::<Vec<bool>>(),
        )
        .bind(outcomes.iter().map(|(ord, _)| *ord).collect::<Vec<i64>>())
        .bind(outcomes.iter().map(|(_, outcome)| outcome.index).collect::<Vec<i32>>())
        .bind(
            outcomes
                .iter()
                .map(|(_, outcome)| outcome.state.map(ActionState::as_str))
                .collect::<Vec<Option<&str>>>(),
        )
        .bind(
            outcomes
                .iter()
                .map(|(_, outcome)| outcome.message_id.as_deref())
                .collect::<Vec<Option<&str>>>(),
        )
        .bind(
            outcomes
                .iter()
                .map(|(_, outcome)| outcome.code)
                .collect::<Vec<Option<i64>>>(),
        )
        .bind(
            outcomes
                .iter()
                .map(|(_, outcome)| outcome.refused)
                .collect::<Vec<bool>>(),
        )
        .bind(outcomes.iter().map(|(_, outcome)| outcome.tries).collect::<Vec<i32>>())
        .bind(
            outcomes
                .iter()
                .map(|(_, outcome)| outcome.uuid)
                .collect::<Vec<Option<&str>>>(),
        )
        .bind(
            outcomes
                .iter()
                .map(|(_, outcome)| outcome.sender)
                .collect::<Vec<Option<&str>>>(),
        )
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
